"""The one templating form: ``${params.X}``, ``${item}``, ``${steps.X.outputs.Y}``.

A reference may be a whole value, whose type it then keeps, or, but for steps, part of a string.
``$${`` stands for a literal ``${``. Values of parameters are data: a ``${`` inside one is escaped
when it is put in place, so that it is never read as a reference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crucible.specs.document import child_path

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)(\}|\Z|(?=[{]))")
_STEP = re.compile(r"steps\.([^.\s]+)\.outputs\.([^.\s]+)(?:\.(\S+))?\Z")
FORMS = "Write ${params.NAME}, ${item} or ${steps.NAME.outputs.OUTPUT}; $${ is a literal ${."


@dataclass(frozen=True)
class ParamRef:
    """``${params.NAME}``."""

    name: str


@dataclass(frozen=True)
class ItemRef:
    """``${item}``: the item of the surrounding ``foreach``."""


@dataclass(frozen=True)
class OutputRef:
    """``${steps.NAME.outputs.OUTPUT}``, or a number in a Metrics output if ``metric`` is set."""

    step: str
    output: str
    metric: str | None = None
    item: int | None = None
    """Of a step with a ``foreach`` the one of this item; None: of all, or the step has none."""

    def __str__(self) -> str:
        metric = "" if self.metric is None else f".{self.metric}"
        return f"steps.{self.step}.outputs.{self.output}{metric}"


Reference = ParamRef | ItemRef | OutputRef


def parse_reference(text: str) -> Reference | None:
    """The reference that ``text`` is, ``${…}`` included; None if it is anything else."""
    match = _REFERENCE.fullmatch(text)
    if match is None or match[1] is None or match[2] != "}":
        return None
    return _parse_inner(match[1])


def _parse_inner(inner: str) -> Reference | None:
    inner = inner.strip()
    if inner == "item":
        return ItemRef()
    if step := _STEP.match(inner):
        return OutputRef(step[1], step[2], step[3])
    head, _, name = inner.partition(".")
    if head == "params" and name and not re.search(r"[\s.]", name):
        return ParamRef(name)
    return None


def references_in(text: str) -> Iterator[Reference | str]:
    """Each reference in ``text``; the raw ``${…}`` where it has none of the three forms."""
    for match in _REFERENCE.finditer(text):
        if match[1] is not None:
            found = _parse_inner(match[1]) if match[2] == "}" else None
            yield match[0] if found is None else found


def strings_in(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Path and text of every string in a JSON value."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from strings_in(item, child_path(path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from strings_in(item, child_path(path, index))


def has_item(value: Any) -> bool:
    """True if ``${item}`` stands anywhere in ``value``."""
    texts = (text for _, text in strings_in(value, ""))
    return any(isinstance(found, ItemRef) for text in texts for found in references_in(text))


Lookup = Callable[[Reference], Any]
"""A reference's value in escaped form; KeyError leaves the reference in place."""


def substitute(value: Any, lookup: Lookup) -> Any:
    """``value`` with every reference that ``lookup`` knows replaced, at any depth.

    A whole-value reference keeps its type; inside a longer string numbers and booleans are written
    as in YAML, and lists and mappings as JSON.
    """
    if isinstance(value, str):
        return _substitute_text(value, lookup) if "${" in value else value
    if isinstance(value, dict):
        return {key: substitute(item, lookup) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, lookup) for item in value]
    return value


def _substitute_text(text: str, lookup: Lookup) -> Any:
    whole = parse_reference(text)
    if whole is not None:
        try:
            return lookup(whole)
        except KeyError:
            return text

    def replacement(match: re.Match[str]) -> str:
        found = _parse_inner(match[1]) if match[1] is not None and match[2] == "}" else None
        try:
            put = lookup(found) if found is not None else match[0]
        except KeyError:
            return match[0]
        return put if isinstance(put, str) else json.dumps(put, ensure_ascii=False)

    return _REFERENCE.sub(replacement, text)


def escape(value: Any) -> Any:
    """``value`` such that `unescape` gives it back and no reference is seen in it."""
    return _map_strings(value, lambda text: text.replace("${", "$${"))


def unescape(value: Any) -> Any:
    """``value`` with every ``$${`` as the ``${`` it stands for."""
    return _map_strings(value, lambda text: text.replace("$${", "${"))


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value) if "${" in value else value
    if isinstance(value, dict):
        return {key: _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    return value


def lookup_params(params: Mapping[str, Any]) -> Lookup:
    """Resolves ``${params.NAME}`` and nothing else."""

    def lookup(reference: Reference) -> Any:
        if not isinstance(reference, ParamRef):
            raise KeyError(reference)
        return escape(params[reference.name])

    return lookup


def lookup_item(item: Any) -> Lookup:
    """Resolves ``${item}``, whose text is still escaped, and nothing else."""

    def lookup(reference: Reference) -> Any:
        if not isinstance(reference, ItemRef):
            raise KeyError(reference)
        return item

    return lookup
