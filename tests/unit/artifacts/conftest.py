"""One store per test on each kind of backend, and a way to damage it behind its back."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from crucible.artifacts import ArtifactReader, ArtifactRef, Store, open_store
from crucible.artifacts.s3_backend import S3Backend
from crucible.artifacts.s3_client import Patience
from crucible.testing.object_store import ObjectStore, object_store

KINDS = ("file", "s3")
CHUNK_BYTES = 1 << 16
"""Small chunks in tests: the code under test is the same, the bytes are fewer."""


class Place(Protocol):
    """Where a store keeps its bytes, for tests that look or meddle."""

    uri: str
    environ: dict[str, str]

    def open(self) -> Store: ...
    def keys(self, prefix: str = "") -> list[str]: ...
    def peek(self, key: str) -> bytes: ...
    def poke(self, key: str, data: bytes) -> None: ...
    def drop(self, key: str) -> None: ...


@dataclass
class Folder:
    root: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return self.root.as_uri()

    def open(self) -> Store:
        return open_store(self.uri)

    def keys(self, prefix: str = "") -> list[str]:
        files = (path for path in self.root.rglob("*") if path.is_file())
        keys = sorted(path.relative_to(self.root).as_posix() for path in files)
        return [key for key in keys if key.startswith(prefix)]

    def peek(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def poke(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            path.chmod(0o644)
        path.write_bytes(data)

    def drop(self, key: str) -> None:
        (self.root / key).unlink()


@dataclass
class Bucket:
    server: ObjectStore
    bucket: str
    prefix: str

    def __post_init__(self) -> None:
        self.client = self.server.client()
        self.environ = self.server.environ

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def open(self) -> Store:
        backend = S3Backend.connect(
            self.bucket, self.prefix, self.environ, Patience(retries=3), CHUNK_BYTES
        )
        return Store(backend)

    def keys(self, prefix: str = "") -> list[str]:
        start = f"{self.prefix}/{prefix}"
        listed = self.client.list_objects(self.bucket, start, recursive=True)
        return sorted(str(item.object_name).removeprefix(f"{self.prefix}/") for item in listed)

    def peek(self, key: str) -> bytes:
        response = self.client.get_object(self.bucket, f"{self.prefix}/{key}")
        try:
            return bytes(response.read())
        finally:
            response.close()
            response.release_conn()

    def poke(self, key: str, data: bytes) -> None:
        self.client.put_object(self.bucket, f"{self.prefix}/{key}", io.BytesIO(data), len(data))

    def drop(self, key: str) -> None:
        self.client.remove_object(self.bucket, f"{self.prefix}/{key}")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ObjectStore]:
    with object_store() as server:
        yield server


@pytest.fixture(scope="session")
def s3_bucket(s3_server: ObjectStore) -> str:
    return s3_server.make_bucket()


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An empty place for a store, of each kind."""
    if request.param == "file":
        return Folder(tmp_path / "store")
    server: ObjectStore = request.getfixturevalue("s3_server")
    bucket = Bucket(server, request.getfixturevalue("s3_bucket"), f"test/{tmp_path.name}")
    for name, value in bucket.environ.items():
        monkeypatch.setenv(name, value)
    return bucket


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()


@pytest.fixture
def chunk_bytes() -> int:
    """Size above which a store on s3:// verifies parts of a blob on their own."""
    return CHUNK_BYTES


def read_whole(reader: ArtifactReader, path: str) -> bytes:
    with reader.open(path) as stream:
        return stream.read()


@pytest.fixture
def read() -> Callable[[ArtifactReader, str], bytes]:
    """Reads a whole file of an artifact."""
    return read_whole


class Put(Protocol):
    def __call__(self, store: Store, files: dict[str, bytes], **facts: Any) -> ArtifactRef: ...


@pytest.fixture
def put() -> Put:
    """Commits an artifact of the given files."""

    def commit(store: Store, files: dict[str, bytes], **facts: Any) -> ArtifactRef:
        with store.draft() as draft:
            for path, data in files.items():
                draft.new_file(path).write_bytes(data)
            return draft.commit(**{"type": "Model", "producer": {"component": "maker"}, **facts})

    return commit


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_python(place: Place) -> Iterator[Start]:
    """Starts code in a Python process of its own, the store's URI its first argument."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), place.uri, *arguments],
            env={**os.environ, **place.environ},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
