"""Manifests: what an artifact is, in canonical JSON, and the reference that passes between steps.

A manifest names files by content and holds nothing about when or where they were made, so equal
work gives equal digests. Reading is strict: a manifest that breaks a rule is refused with every
problem named, since all later trust in bytes rests on it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crucible.artifacts.files import storage_errors, write_atomically
from crucible.errors import ArtifactCorrupt, ArtifactNotFound, Problem, UserError

MANIFEST_SCHEMA = "crucible.manifest/v1"
MetadataValue = str | int | float

_HEX = re.compile(r"[0-9a-f]{64}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_MANIFEST_KEYS = {"schema", "type", "variant", "files", "metadata", "producer", "parents"}
_FILE_KEYS = {"path", "sha256", "size_bytes"}


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact."""

    path: str
    """Relative POSIX path inside the artifact."""
    sha256: str
    """64 lower-case hex digits."""
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """An artifact's type, files, metadata and origin. Checked when made."""

    type: str
    files: tuple[FileEntry, ...]
    variant: str = "any"
    metadata: dict[str, MetadataValue] = field(default_factory=dict)
    producer: dict[str, str] = field(default_factory=dict)
    """``component``, ``version`` and ``fingerprint`` of the step that made it."""
    parents: tuple[str, ...] = ()
    """Digests of the artifacts it was made from."""
    schema: str = MANIFEST_SCHEMA

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            listed = "; ".join(map(str, problems))
            raise UserError(f"invalid artifact manifest: {listed}", problems)

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of `to_json`."""
        return "sha256:" + hashlib.sha256(self.to_json()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Sum over the files."""
        return sum(entry.size_bytes for entry in self.files)

    @property
    def label(self) -> str:
        """How messages call it: ``Model[causal-lm] of merge-models``."""
        kind = self.type if self.variant == "any" else f"{self.type}[{self.variant}]"
        return f"{kind} of {self.producer.get('component', 'an unnamed producer')}"

    def file(self, path: str) -> FileEntry:
        """The entry of ``path``.

        Raises:
            ArtifactNotFound: the artifact has no such file.
        """
        for entry in self.files:
            if entry.path == path:
                return entry
        have = ", ".join(entry.path for entry in self.files[:20])
        raise ArtifactNotFound(
            f"{self.label} ({self.digest}) has no file {path!r}. Its files: {have}."
        )

    def to_json(self) -> bytes:
        """Canonical JSON: keys sorted, no spaces, UTF-8."""
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, data: bytes | str) -> Manifest:
        """Parse and check.

        Raises:
            UserError: not JSON, or a rule is broken; lists every problem.
        """
        try:
            value = json.loads(data)
        except ValueError as error:
            raise UserError(f"invalid artifact manifest: not JSON: {error}") from error
        return cls.from_value(value)

    @classmethod
    def from_value(cls, value: Any) -> Manifest:
        """As `from_json`, from parsed JSON."""
        problems = list(_shape_problems(value))
        if problems:
            listed = "; ".join(map(str, problems))
            raise UserError(f"invalid artifact manifest: {listed}", problems)
        return cls(
            schema=value["schema"],
            type=value["type"],
            variant=value["variant"],
            files=tuple(FileEntry(**entry) for entry in value["files"]),
            metadata=value["metadata"],
            producer=value["producer"],
            parents=tuple(value["parents"]),
        )


@dataclass(frozen=True)
class ArtifactRef:
    """The small JSON document that passes between steps in place of the bytes."""

    digest: str
    store: str
    """URI of the store that holds the bytes."""
    manifest: Manifest

    @classmethod
    def of(cls, manifest: Manifest, store_uri: str) -> ArtifactRef:
        return cls(manifest.digest, store_uri, manifest)

    def to_json(self) -> bytes:
        return canonical_json(asdict(self))

    def write(self, path: Path) -> None:
        """Write the document atomically, parent folders included.

        Not synced: a reference checks itself when read, and the digest and the store make it anew.
        """
        with storage_errors(path.parent, f"write the reference {path.name}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, self.to_json(), durable=False)

    @classmethod
    def read(cls, path: Path) -> ArtifactRef:
        """The reference in ``path``, its digest checked against its manifest.

        Raises:
            ArtifactNotFound: no such file.
            ArtifactCorrupt: not a reference, or digest and manifest differ.
        """
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise ArtifactNotFound(
                f"{path}: no artifact reference there. Run the step that writes it first."
            ) from error
        return cls.from_json(data, where=str(path))

    @classmethod
    def from_json(cls, data: bytes, *, where: str = "artifact reference") -> ArtifactRef:
        """As `read`, from bytes; ``where`` names their origin in errors."""
        fix = "Run the step that wrote it again."
        try:
            value = json.loads(data)
            if not (isinstance(value, dict) and value.keys() == {"digest", "store", "manifest"}):
                raise UserError("not an object of digest, store and manifest")
            manifest = Manifest.from_value(value["manifest"])
        except ValueError as error:
            raise ArtifactCorrupt(f"{where}: not an artifact reference: {error}. {fix}") from error
        if value["digest"] != manifest.digest or not isinstance(value["store"], str):
            raise ArtifactCorrupt(
                f"{where}: digest {value['digest']!r} does not match its manifest, "
                f"{manifest.label} ({manifest.digest}). {fix}"
            )
        return cls(manifest.digest, value["store"], manifest)


def canonical_json(value: object) -> bytes:
    """The one byte form of ``value``: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest_hex(digest: str) -> str:
    """The hex digits of ``sha256:<hex>``.

    Raises:
        UserError: another form.
    """
    if not (isinstance(digest, str) and _DIGEST.match(digest)):
        raise UserError(f"digest {digest!r}: must be 'sha256:' and 64 lower-case hex digits.")
    return digest.removeprefix("sha256:")


def is_hex(name: str) -> bool:
    """True for the 64 hex digits of a sha256."""
    return _HEX.match(name) is not None


def path_problem(path: object) -> str | None:
    """Why ``path`` cannot name a file of an artifact, or None."""
    if not isinstance(path, str) or not path:
        return "must be a non-empty string"
    if "\0" in path or "\\" in path:
        return "must hold no NUL and no backslash"
    if path.startswith("/"):
        return "must be relative"
    if any(part in ("", ".", "..") for part in path.split("/")):
        return "must hold no empty part, '.' or '..'"
    if not _is_utf8(path):
        return "must be valid UTF-8"
    return None


def _shape_problems(value: Any) -> Iterable[Problem]:
    if not isinstance(value, dict):
        yield Problem("", f"{type(value).__name__}: must be an object")
        return
    if missing := _MANIFEST_KEYS - value.keys():
        yield Problem("", f"keys {sorted(missing)} are missing")
    if unknown := value.keys() - _MANIFEST_KEYS:
        yield Problem("", f"unknown keys {sorted(unknown)}")
    for key, wanted in (("files", list), ("parents", list), ("metadata", dict), ("producer", dict)):
        if key in value and not isinstance(value[key], wanted):
            yield Problem(key, f"{value[key]!r}: must be a JSON {_JSON_NAMES[wanted]}")
    files = value.get("files")
    for index, entry in enumerate(files if isinstance(files, list) else ()):
        if not (isinstance(entry, dict) and entry.keys() == _FILE_KEYS):
            yield Problem(f"files[{index}]", f"{entry!r}: must have exactly {sorted(_FILE_KEYS)}")


_JSON_NAMES: Mapping[type, str] = {list: "array", dict: "object"}


def _problems(manifest: Manifest) -> Iterable[Problem]:
    if manifest.schema != MANIFEST_SCHEMA:
        yield Problem("schema", f"{manifest.schema!r}: must be {MANIFEST_SCHEMA!r}")
    for name in ("type", "variant"):
        value = getattr(manifest, name)
        if not (isinstance(value, str) and value and _is_utf8(value)):
            yield Problem(name, f"{value!r}: must be a non-empty UTF-8 string")
    yield from _file_problems(manifest.files)
    for key, value in manifest.metadata.items():
        yield from _metadata_problems(key, value)
    for key, value in manifest.producer.items():
        if not (isinstance(value, str) and _is_utf8(key) and _is_utf8(value)):
            yield Problem(f"producer.{key}", f"{value!r}: must be a UTF-8 string")
    for index, parent in enumerate(manifest.parents):
        if not (isinstance(parent, str) and _DIGEST.match(parent)):
            yield Problem(f"parents[{index}]", f"{parent!r}: must be 'sha256:<64 hex digits>'")


def _file_problems(files: tuple[FileEntry, ...]) -> Iterable[Problem]:
    for index, entry in enumerate(files):
        if rule := path_problem(entry.path):
            yield Problem(f"files[{index}].path", f"{entry.path!r}: {rule}")
        if not (isinstance(entry.sha256, str) and _HEX.match(entry.sha256)):
            yield Problem(f"files[{index}].sha256", f"{entry.sha256!r}: must be 64 hex digits")
        if type(entry.size_bytes) is not int or entry.size_bytes < 0:
            yield Problem(f"files[{index}].size_bytes", f"{entry.size_bytes!r}: must be >= 0")
    paths = [entry.path for entry in files if isinstance(entry.path, str)]
    if any(first >= second for first, second in itertools.pairwise(paths)):
        yield Problem("files", "paths must be sorted and unique")
    folders = {path[:at] for path in paths for at, char in enumerate(path) if char == "/"}
    for path in folders.intersection(paths):
        yield Problem("files", f"{path!r}: must not be both a file and a folder")


def _metadata_problems(key: str, value: object) -> Iterable[Problem]:
    where = f"metadata.{key}"
    if not _is_utf8(key) or (isinstance(value, str) and not _is_utf8(value)):
        yield Problem(where, f"{value!r}: must be valid UTF-8")
    elif isinstance(value, bool) or not isinstance(value, MetadataValue):
        yield Problem(where, f"{value!r}: must be a string, an integer or a float")
    elif isinstance(value, float) and not math.isfinite(value):
        yield Problem(where, f"{value!r}: must be finite", "Leave the value out.")


def _is_utf8(text: str) -> bool:
    """False for text with lone surrogates, which file names outside UTF-8 turn into."""
    return not any("\ud800" <= char <= "\udfff" for char in text)
