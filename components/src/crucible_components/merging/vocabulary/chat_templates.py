"""The chat template of the result: by name, as Jinja text, or the most frequent of the models.

Written as chat_template.jinja alone, as transformers 5 saves it: that file overrules
tokenizer_config.json, and the older chat_template.json would overrule it in processors.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from crucible.errors import Problem
from crucible.sdk.suggestion import did_you_mean
from crucible_components.merging.vocabulary.tokens import CONFIG_FILE

TEMPLATE_FILE = "chat_template.jinja"
LEGACY_FILE = "chat_template.json"
MORE_TEMPLATES = "additional_chat_templates/"

KNOWN: dict[str, str] = {
    "alpaca": """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{ message['content'] | trim + '\\n\\n' }}
{%- elif message['role'] == 'user' -%}
{{ '### Instruction:\\n' + message['content'] | trim + '\\n\\n' }}
{%- elif message['role'] == 'user_context' -%}
{{ '### Input:\\n' + message['content'] | trim + '\\n\\n' }}
{%- elif message['role'] == 'assistant' -%}
{{ '### Response:\\n' + message['content'] | trim + '\\n\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '### Response:\\n' }}
{%- endif -%}
""",
    "chatml": """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
""",
    "llama3": """\
{{- bos_token -}}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif -%}
""",
    "mistral": """\
{%- set chat = namespace(system='', turn=0) -%}
{{ bos_token }}
{%- for message in messages -%}
{%- if message['role'] == 'system' and loop.first -%}
{%- set chat.system = message['content'] + '\\n\\n' -%}
{%- elif message['role'] == 'user' and chat.turn % 2 == 0 -%}
{{ ' [INST] ' + chat.system + message['content'] + ' [/INST]' }}
{%- set chat.system = '' -%}
{%- set chat.turn = chat.turn + 1 -%}
{%- elif message['role'] == 'assistant' and chat.turn % 2 == 1 -%}
{{ ' ' + message['content'] + eos_token }}
{%- set chat.turn = chat.turn + 1 -%}
{%- else -%}
{{ raise_exception('After a system message, user and assistant must take turns.') }}
{%- endif -%}
{%- endfor -%}
""",
    "exaone": """\
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}
{{ '[|system|][|endofturn|]\\n' }}
{%- endif -%}
{{ '[|' + message['role'] + '|]' + message['content'] }}
{{- '\\n' if message['role'] == 'user' else '[|endofturn|]\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '[|assistant|]' }}
{%- endif -%}
""",
}


def choose_template(
    given: str, files: Iterable[Mapping[str, bytes]]
) -> tuple[str | None, list[Problem]]:
    """The template that ``chat_template: given`` means; None if ``auto`` finds none.

    Args:
        given: ``auto``, a name, or Jinja text.
        files: tokenizer files of each model; of equally frequent templates the first is taken.
    """
    if given == "auto":
        found = [text for each in files if (text := template_of(each))]
        return (Counter(found).most_common(1)[0][0] if found else None), []
    if given in KNOWN:
        return KNOWN[given], []
    if "{" not in given:
        message = f"is {given!r}: neither a known template nor Jinja text."
        return None, [Problem("chat_template", message, did_you_mean(given, ["auto", *KNOWN]))]
    return given, _syntax(given)


def template_of(files: Mapping[str, bytes]) -> str | None:
    """The default template among the tokenizer files of a model, without space around it."""
    if TEMPLATE_FILE in files:
        return files[TEMPLATE_FILE].decode().strip() or None
    value = _config(files).get("chat_template")
    value = value or _config(files, LEGACY_FILE).get("chat_template")
    if isinstance(value, list):
        value = {each.get("name"): each.get("template") for each in value if isinstance(each, dict)}
    if isinstance(value, dict):
        value = value.get("default")
    return value.strip() or None if isinstance(value, str) else None


def with_template(files: Mapping[str, bytes], template: str) -> dict[str, bytes]:
    """The tokenizer files with this template and no other."""
    kept = {path: data for path, data in files.items()
            if path != LEGACY_FILE and not path.startswith(MORE_TEMPLATES)}  # fmt: skip
    config = _config(files)
    if config.pop("chat_template", None) is not None:
        kept[CONFIG_FILE] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    return {**kept, TEMPLATE_FILE: template.encode()}


def _config(files: Mapping[str, bytes], path: str = CONFIG_FILE) -> dict[str, Any]:
    """Its entries; none if it is malformed, which reading the vocabulary tells."""
    try:
        value = json.loads(files.get(path, b"{}"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _syntax(template: str) -> list[Problem]:
    """Errors that show without running the template, by what transformers allows in one."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}``, which marks what the model has written."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    try:
        environment.compile(template, raw=True)
    except TemplateError as cause:
        line = getattr(cause, "lineno", None)
        where = f" in line {line}" if line else ""
        message = f"is not a valid template: {cause.message}{where}."
        return [Problem("chat_template", message, "Correct it, or give a name or auto.")]
    return []
