"""YAML text to a tree of nodes that know their place in the file.

Events of PyYAML (libyaml where it is compiled in) are assembled here and not by its composer, which
recurses in C without a limit: ``[[[[…`` would end the process. Scalars follow the YAML 1.2 core
schema instead of PyYAML's 1.1: ``1e-4`` is a number, ``on`` and ``no`` are words, ``12:30`` is no
base-60 integer. Anchors, aliases and merge keys work; tags other than the core ones do not.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from crucible.errors import Problem

MAX_DEPTH = 50
_MAX_NUMBER_CHARS = 100
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAG_PREFIX = "tag:yaml.org,2002:"
_SCALAR_TAGS = tuple(_TAG_PREFIX + name for name in ("null", "bool", "int", "float", "str"))
_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]+\Z")
_PREFIXED_INT = re.compile(r"0(?:o[0-7]+|x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")


class YamlError(ValueError):
    """The text is no YAML document that we read; carries the one problem that ended reading."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(slots=True)
class Scalar:
    """A leaf as written."""

    line: int
    column: int
    text: str
    tag: str | None
    is_plain: bool


@dataclass(slots=True)
class Sequence:
    """A list of nodes."""

    line: int
    column: int
    items: list[Node] = field(default_factory=list)
    tag: str | None = None


@dataclass(slots=True)
class Mapping:
    """Keys and values in order, duplicates included."""

    line: int
    column: int
    items: list[tuple[Node, Node]] = field(default_factory=list)
    tag: str | None = None


Node = Scalar | Sequence | Mapping


def read_nodes(text: str, file: str) -> Node | None:
    """The tree of the one document in ``text``; None if there is none. May contain itself.

    Raises:
        YamlError: a syntax error, a second document, or nesting deeper than `MAX_DEPTH`.
    """
    assembly = _Assembly(file)
    try:
        for event in yaml.parse(text, Loader=_Loader):
            assembly.add(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.problem, error.context) if part)
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        fix = _syntax_fix(text, mark.line if mark else 0)
        raise YamlError(Problem("", f"not valid YAML: {what}.", fix, file, line, column)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        message = f"not valid YAML: character {error.character!r}: {error.reason}."
        fix = "Remove the character."
        raise YamlError(Problem("", message, fix, file, line, column)) from error
    except UnicodeEncodeError as error:  # a lone surrogate, from an argument that is not UTF-8
        message = f"character {error.object[error.start]!r} is not Unicode text."
        raise YamlError(Problem("", message, "Remove it.", file)) from error
    return assembly.root


class _Assembly:
    """Builds the tree from parser events, without recursion."""

    def __init__(self, file: str) -> None:
        self.root: Node | None = None
        self._file = file
        self._open: list[Sequence | Mapping] = []
        self._keys: list[Node | None] = []
        self._anchors: dict[str, Node] = {}

    def add(self, event: Any) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._place(
                Scalar(*_place_of(event), event.value, event.tag, _is_plain(event)), event.anchor
            )
        elif isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
            cls = Sequence if isinstance(event, yaml.SequenceStartEvent) else Mapping
            node = cls(*_place_of(event), tag=event.tag)
            self._place(node, event.anchor)
            self._open.append(node)
            self._keys.append(None)
            if len(self._open) > MAX_DEPTH:
                self._fail(event, f"is nested more than {MAX_DEPTH} deep.", "Flatten it.")
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            self._open.pop()
            self._keys.pop()
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                self._fail(
                    event, f"alias *{event.anchor} has no anchor.", f"Define &{event.anchor}."
                )
            self._place(self._anchors[str(event.anchor)], None)

    def _place(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        parent = self._open[-1] if self._open else None
        if parent is None:
            if self.root is not None:
                self._fail(node, "a second document starts here.", "Keep one document a file.")
            self.root = node
        elif isinstance(parent, Sequence):
            parent.items.append(node)
        elif (key := self._keys[-1]) is None:
            self._keys[-1] = node
        else:
            parent.items.append((key, node))
            self._keys[-1] = None

    def _fail(self, at: Any, message: str, fix: str) -> None:
        line, column = _place_of(at) if hasattr(at, "start_mark") else (at.line, at.column)
        raise YamlError(Problem("", message, fix, self._file, line, column))


def _place_of(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _is_plain(event: yaml.ScalarEvent) -> bool:
    return event.style in (None, "")


def _syntax_fix(text: str, line_index: int) -> str:
    lines = text.splitlines()
    line = lines[line_index] if line_index < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or line.startswith("\t"):
        return "Indent with spaces: YAML forbids tabs."
    if "${" in line:
        return 'Quote references: "${params.NAME}".'
    return "Check quotes, colons and indentation there."


def scalar_value(node: Scalar) -> str | int | float | bool | None:
    """What ``node`` stands for under the YAML 1.2 core schema.

    Raises:
        ValueError: the text does not fit its tag, or is a number nobody can mean.
    """
    if node.tag not in (None, "!", *_SCALAR_TAGS):
        raise ValueError(f"tag {node.tag} is not supported")
    wanted = node.tag.removeprefix(_TAG_PREFIX) if node.tag else None
    if wanted in ("!", "str") or (wanted is None and not node.is_plain):
        return node.text
    value = _plain_value(node.text)
    if wanted is None or _tag_of(value) == wanted:
        return value
    if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"{node.text!r} is not a YAML {wanted}")


def _plain_value(text: str) -> str | int | float | bool | None:
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text.lower() == "true"
    if _NOT_FINITE.match(text):
        raise ValueError(f"{text} is not a finite number")
    is_int, is_prefixed = _INT.match(text), _PREFIXED_INT.match(text)
    if not (is_int or is_prefixed or _FLOAT.match(text)):
        return text
    if len(text) > _MAX_NUMBER_CHARS:
        raise ValueError(f"a number of {len(text)} digits is too long; quote it if it is a text")
    if is_int or is_prefixed:
        return int(text, 10 if is_int else 0)
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large for a number")
    return number


def _tag_of(value: object) -> str:
    names = {bool: "bool", int: "int", float: "float", str: "str", type(None): "null"}
    return names[type(value)]
