"""A YAML file as plain values plus the place of each, for errors with file:line:column.

Paths are dotted as in messages: ``steps.align.with.models[0]``. Everything that is wrong with a
file's form is found here: size, encoding, duplicate keys, keys that are no words, alias bombs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crucible.errors import Problem, UserError
from crucible.specs.yaml_nodes import (
    MAX_DEPTH,
    Mapping,
    Node,
    Scalar,
    Sequence,
    YamlError,
    read_nodes,
    scalar_value,
)

MAX_FILE_BYTES = 2**20
MAX_NODES = 100_000
_MAX_SHOWN_CHARS = 60
_MERGE_KEY = "<<"
_TOO_MANY = f"has more than {MAX_NODES} values"
_CORE_TAGS = {Mapping: "tag:yaml.org,2002:map", Sequence: "tag:yaml.org,2002:seq"}

Place = tuple[int, int]
"""Line and column, both from 1."""


@dataclass
class Document:
    """One YAML file. ``problems`` holds what is wrong with its form; the rest is readable."""

    file: str
    text: str = ""
    value: Any = None
    problems: list[Problem] = field(default_factory=list)
    value_places: dict[str, Place] = field(default_factory=dict)
    key_places: dict[str, Place] = field(default_factory=dict)

    def problem(self, path: str, message: str, fix: str = "", *, at_key: bool = False) -> Problem:
        """A problem at ``path``: at its value, its key, or the nearest parent that is written."""
        places = self.key_places if at_key else self.value_places
        place = places.get(path)
        parent = path
        while place is None and parent:
            parent = parent_path(parent)
            place = self.key_places.get(parent) or self.value_places.get(parent)
        line, column = place or (1, 1)
        return Problem(path, message, fix, self.file, line, column)


def child_path(path: str, key: str | int) -> str:
    """The path of an item or of a value under ``key``."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


def parent_path(path: str) -> str:
    """``path`` without its last part."""
    return path[: max(path.rfind("."), path.rfind("["), 0)]


def shown(value: Any) -> str:
    """``value`` as a user would write it, shortened for messages."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[: _MAX_SHOWN_CHARS - 1]}…"


def read_document(path: Path) -> Document:
    """Read one YAML file whose top level is a mapping.

    Raises:
        UserError: the file cannot be read or is no YAML. Lesser faults are in ``problems``.
    """
    return parse_document(_read_text(path), str(path))


def parse_document(text: str, file: str) -> Document:
    """As `read_document`, from text."""
    document, root = _parse(text, file)
    if isinstance(root, Scalar) and not root.text:
        raise _refused(Problem("", "is empty.", "Write apiVersion, kind and steps.", file, 1, 1))
    if not isinstance(root, Mapping):
        message = "has no keys at the top level."
        fix = "Write `key: value` lines."
        raise _refused(Problem("", message, fix, file, root.line, root.column))
    return document


def parse_value(text: str, source: str) -> Any:
    """The one value that ``text`` is in YAML, e.g. an argument of ``--set``.

    Raises:
        UserError: ``text`` is no YAML; ``source`` names it.
    """
    document, _ = _parse(text, source)
    if document.problems:
        raise refused(source, document.problems)
    return document.value


def _parse(text: str, file: str) -> tuple[Document, Node]:
    try:
        root = read_nodes(text, file)
    except YamlError as error:
        raise _refused(error.problem) from error
    root = root or Scalar(1, 1, "", None, is_plain=True)
    document = Document(file, text)
    document.value = _Flattening(document).value(root, "", 0)
    return document, root


def _read_text(path: Path) -> str:
    file = str(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise _refused(
            Problem("", f"cannot be read: {reason}.", "Check the path.", file)
        ) from error
    if len(data) > MAX_FILE_BYTES:
        message = f"is larger than {MAX_FILE_BYTES // 2**20} MiB."
        raise _refused(Problem("", message, "Keep data out of it: refer to files.", file))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - before.rfind(b"\n")
        message = f"byte 0x{data[error.start]:02x} is not UTF-8."
        raise _refused(Problem("", message, "Save it as UTF-8.", file, line, column)) from error


def refused(file: str, problems: Iterable[Problem]) -> UserError:
    """The error that carries everything wrong with ``file``, in the order of its lines."""
    listed = sorted(
        problems, key=lambda p: (p.file != file, p.file or "", p.line or 0, p.column or 0)
    )
    return UserError(f"{file}: {len(listed)} problem{'s'[: len(listed) > 1]}.", listed)


def _refused(problem: Problem) -> UserError:
    return refused(problem.file or "", [problem])


class _Flattening:
    """Turns nodes into values, copying what aliases share, within limits."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._num_nodes = 0

    def value(self, node: Node, path: str, depth: int) -> Any:
        self._document.value_places[path] = (node.line, node.column)
        self._count(path, depth)
        if isinstance(node, Scalar):
            try:
                return scalar_value(node)
            except ValueError as error:
                self._report(path, f"{error}.")
                return None
        if node.tag not in (None, "!", _CORE_TAGS[type(node)]):
            self._report(path, f"tag {node.tag} is not supported.", "Remove it.")
        if isinstance(node, Sequence):
            return [
                self.value(item, child_path(path, index), depth + 1)
                for index, item in enumerate(node.items)
            ]
        values: dict[str, Any] = {}
        self._fill(values, node, path, depth)
        return values

    def _fill(
        self, values: dict[str, Any], node: Mapping, path: str, depth: int, *, merging: bool = False
    ) -> None:
        """Add the pairs of ``node``, then those that its merge keys bring and it has not.

        With ``merging``, keys that are there already win and bad keys were reported elsewhere.
        """
        merged: list[Node] = []
        for key, item in node.items:
            if not isinstance(key, Scalar):
                if not merging:
                    self._report_key(path, key)
            elif key.text == _MERGE_KEY and key.is_plain:
                merged.append(item)
            elif key.text not in values:
                where = child_path(path, key.text)
                self._document.key_places[where] = (key.line, key.column)
                values[key.text] = self.value(item, where, depth + 1)
            elif not merging:
                self._report_second(path, key)
        for item in merged:
            for source in item.items if isinstance(item, Sequence) else [item]:
                self._merge(values, source, path, depth + 1)

    def _merge(self, values: dict[str, Any], source: Node, path: str, depth: int) -> None:
        self._count(path, depth)
        if isinstance(source, Mapping):
            self._fill(values, source, path, depth, merging=True)
        else:
            where = child_path(path, _MERGE_KEY)
            self._document.value_places[where] = (source.line, source.column)
            self._report(where, "merges what is no mapping.", "Name an anchored mapping.")

    def _count(self, path: str, depth: int) -> None:
        self._num_nodes += 1
        if depth <= MAX_DEPTH and self._num_nodes <= MAX_NODES:
            return
        what = f"is nested more than {MAX_DEPTH} deep" if depth > MAX_DEPTH else _TOO_MANY
        message = f"{what} once aliases are expanded."
        problem = self._document.problem(path, message, "Remove aliases that repeat.")
        if len(path) > _MAX_SHOWN_CHARS:
            problem = replace(problem, path=f"{path[:_MAX_SHOWN_CHARS]}…")
        raise _refused(problem)

    def _report(self, path: str, message: str, fix: str = "") -> None:
        self._document.problems.append(self._document.problem(path, message, fix))

    def _report_key(self, path: str, key: Node) -> None:
        message = "a key must be a word, not a mapping or a list."
        fix = 'Quote references: "${params.NAME}".'
        file = self._document.file
        self._document.problems.append(Problem(path, message, fix, file, key.line, key.column))

    def _report_second(self, path: str, key: Scalar) -> None:
        where = child_path(path, key.text)
        message = f"is there already, in line {self._document.key_places[where][0]}."
        file = self._document.file
        self._document.problems.append(
            Problem(where, message, "Remove one.", file, key.line, key.column)
        )
