"""Chat templates: what they render, what transformers reads, what is refused."""

from __future__ import annotations

import json
from importlib.resources import files as resource_files
from pathlib import Path

import pytest

from crucible_components.merging.vocabulary.chat_templates import (
    KNOWN,
    choose_template,
    template_of,
    with_template,
)
from crucible_components.merging.vocabulary.testing import bpe, folder

SYSTEM = {"role": "system", "content": "Be kind."}
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
]

EXPECTED = {
    "alpaca": "Be kind.\n\n### Instruction:\nHi\n\n### Response:\nHello\n\n"
    "### Instruction:\nWhy?\n\n### Response:\n",
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
    "<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s> [INST] Be kind.\n\nHi [/INST] Hello</s> [INST] Why? [/INST]",
    "exaone": "[|system|]Be kind.[|endofturn|]\n[|user|]Hi\n[|assistant|]Hello[|endofturn|]\n"
    "[|user|]Why?\n[|assistant|]",
}


def rendered(template: str, messages: list[dict[str, str]], prompt: bool = True) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    found = render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=prompt,
        bos_token="<s>", eos_token="</s>",
    )  # fmt: skip
    return str(found[0][0])


@pytest.mark.parametrize("name", list(KNOWN))
def test_known_templates(name: str) -> None:
    template, problems = choose_template(name, [])
    assert template is not None
    assert problems == choose_template(template, [])[1] == []
    assert rendered(template, [SYSTEM, *TURNS]) == EXPECTED[name]


@pytest.mark.parametrize("name", ["chatml", "mistral"])
@pytest.mark.parametrize("prompt", [True, False])
def test_mergekits_templates_mean_the_same(name: str, prompt: bool) -> None:
    theirs = resource_files("mergekit._data.chat_templates").joinpath(f"{name}.jinja").read_text()
    for messages in ([SYSTEM, *TURNS], TURNS, TURNS[:2]):
        assert rendered(KNOWN[name], messages, prompt) == rendered(theirs, messages, prompt)


def test_exaone_opens_with_an_empty_system_turn() -> None:
    text = rendered(KNOWN["exaone"], TURNS[:1], prompt=False)
    assert text == "[|system|][|endofturn|]\n[|user|]Hi\n"


def test_mistral_turns_alternate() -> None:
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="must take turns"):
        rendered(KNOWN["mistral"], [TURNS[0], TURNS[0]])


def test_auto_is_the_most_frequent_template() -> None:
    config = {"tokenizer_config.json": json.dumps({"chat_template": "B {{ x }}\n"}).encode()}
    file = {"chat_template.jinja": b" B {{ x }}"}
    other = {"chat_template.jinja": b"A"}
    assert choose_template("auto", [other, config, {}, file]) == ("B {{ x }}", [])
    assert choose_template("auto", [other, config]) == ("A", [])
    assert choose_template("auto", [{}, {"tokenizer_config.json": b"{}"}]) == (None, [])


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({"tokenizer_config.json": {"chat_template": "C"}, "chat_template.jinja": "J"}, "J"),
        ({"tokenizer_config.json": {"chat_template": {"default": "D", "rag": "R"}}}, "D"),
        ({"tokenizer_config.json": {"chat_template": [
            {"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]}}, "D"),
        ({"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "R"}]}}, None),
        ({"chat_template.json": {"chat_template": "P"}}, "P"),
        ({"chat_template.jinja": " \n"}, None),
        ({"tokenizer_config.json": "no object"}, None),
    ],
)  # fmt: skip
def test_where_models_keep_theirs(files: dict[str, object], template: str | None) -> None:
    content = {
        path: (str(value) if path.endswith("jinja") else json.dumps(value)).encode()
        for path, value in files.items()
    }
    assert template_of(content) == template


@pytest.mark.filterwarnings("ignore")
def test_transformers_reads_the_chosen_one(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    old = {"chat_template.jinja": "old", "chat_template.json": '{"chat_template": "old"}',
           "additional_chat_templates/rag.jinja": "rag"}  # fmt: skip
    given = folder(bpe(["cat"]), files=old, chat_template="older", eos_token="a")
    files = with_template(given.files, "new {{ messages[0].content }}")
    assert files.keys() == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    for path, data in files.items():
        (tmp_path / path).write_bytes(data)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.chat_template == "new {{ messages[0].content }}"
    assert tokenizer.eos_token == "a"
    assert tokenizer.apply_chat_template(TURNS, tokenize=False) == "new Hi"


def test_a_config_without_a_template_is_not_touched() -> None:
    given = folder(bpe([]))
    files = with_template(given.files, "new {{ x }}")
    assert files["tokenizer_config.json"] == given.files["tokenizer_config.json"]
    assert with_template({"tokenizer_config.json": b"no JSON"}, "x")["tokenizer_config.json"] == (
        b"no JSON"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{% generation %}{{ x }}{% endgeneration %}",
        "{% for m in x %}{% if m.skip %}{% continue %}{% endif %}{{ m | tojson }}{% endfor %}",
        "{{ raise_exception('x') }}",
    ],
)
def test_what_transformers_allows_in_templates(template: str) -> None:
    assert choose_template(template, []) == (template, [])


@pytest.mark.parametrize(
    ("given", "message", "fix"),
    [
        ("chatlm", "is 'chatlm': neither a known template nor Jinja text.", "mean 'chatml'?"),
        ("{{ x }}\n{% if y %}", "Unexpected end of template", "Correct it"),
        ("a\n\n{{ x | nofilter }}", "No filter named 'nofilter'. in line 3.", "Correct it"),
        ("{% endfor %}", "is not a valid template: ", "Correct it"),
    ],
)
def test_templates_that_are_refused(given: str, message: str, fix: str) -> None:
    template, [problem] = choose_template(given, [])
    assert problem.path == "chat_template"
    assert message in problem.message
    assert fix in problem.fix
    assert template in (None, given)
