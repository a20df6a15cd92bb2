"""Requirement files with versions and hashes: what an image may be installed from.

One file for each image, one for the tools that build them, and ``requirements.txt`` for everything,
which the others agree with (`find_conflicts`). The form is that of ``uv pip compile``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from crucible.errors import UserError

_PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[[^\]]*\])?==(?P<version>[^\s;]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Pin:
    """One distribution in one version."""

    name: str
    """Normalised, as in the package index."""
    version: str
    hashes: tuple[str, ...]
    """Hex SHA-256 of each archive that may be installed."""


def read_lock(path: Path) -> dict[str, Pin]:
    """The pins of a requirement file, by name.

    Raises:
        UserError: no such file, or a line that pins nothing or has no hash.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Write it with `make lock`.") from error
    pins = [_pin(path, line) for line in _logical_lines(text)]
    return {pin.name: pin for pin in pins}


def find_conflicts(lock: Mapping[str, Pin], root: Mapping[str, Pin]) -> list[str]:
    """Where ``lock`` is no subset of ``root``: a sentence each, empty if it is."""
    conflicts = []
    for name, pin in sorted(lock.items()):
        if name not in root:
            conflicts.append(f"{name} is not in the root's lock")
        elif root[name].version != pin.version:
            conflicts.append(f"{name} is {pin.version} here and {root[name].version} in the root's")
        elif not set(pin.hashes) <= set(root[name].hashes):
            conflicts.append(
                f"{name} {pin.version} has archives that the root's lock does not know"
            )
    return conflicts


def normalise(name: str) -> str:
    """A distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _logical_lines(text: str) -> Iterator[str]:
    """Lines joined over backslashes, without comments."""
    joined = ""
    for raw in text.splitlines():
        line = raw.split(" #")[0].strip()
        if line.startswith("#"):
            continue
        joined += line.removesuffix("\\")
        if joined and not line.endswith("\\"):
            yield joined
            joined = ""


def _pin(path: Path, line: str) -> Pin:
    match, hashes = _PIN.match(line), tuple(_HASH.findall(line))
    if match is None or not hashes:
        raise UserError(
            f"{path}: {line.split(' ')[0]!r} is no `name==version` with hashes. "
            "Write the file anew with `make lock`."
        )
    return Pin(normalise(match["name"]), match["version"], hashes)
