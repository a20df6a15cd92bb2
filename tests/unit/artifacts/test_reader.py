"""Reading through every way there is, from every kind of store, sound and damaged."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from crucible.artifacts import ArtifactReader, Store
from crucible.errors import ArtifactCorrupt, ArtifactError, ArtifactNotFound
from crucible.sdk.types import Artifact, ArtifactBytes

CHUNK = 1 << 16
SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7)


@pytest.fixture(autouse=True)
def _chunks_are_as_assumed(chunk_bytes: int) -> None:
    assert chunk_bytes == CHUNK


def body(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def whole(reader: ArtifactReader, path: str) -> bytes:
    with reader.open(path) as stream:
        return stream.read()


def blob_key(data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


@pytest.fixture
def files() -> dict[str, bytes]:
    return {f"part/{size}.bin": body(size) for size in SIZES}


@pytest.fixture
def reader(store: Store, put, files: dict[str, bytes], tmp_path: Path) -> ArtifactReader:
    return store.reader(put(store, files), tmp_path / "scratch")


def test_every_way_of_reading_gives_the_bytes(
    reader: ArtifactReader, files: dict[str, bytes]
) -> None:
    assert reader.paths() == tuple(sorted(files))
    for path, data in files.items():
        with reader.open(path) as stream:
            assert stream.read() == data
        assert reader.read_range(path, 0, len(data)) == data
        assert reader.local_path(path).read_bytes() == data
    folder = reader.local_dir()
    assert {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.bin")
    } == files


def test_ranges_are_those_of_the_bytes(reader: ArtifactReader, files: dict[str, bytes]) -> None:
    rng = random.Random(7)
    path, data = f"part/{SIZES[-1]}.bin", files[f"part/{SIZES[-1]}.bin"]
    edges = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, len(data) - 1, len(data)]
    ranges = [(a, b) for a in edges for b in (0, 1, CHUNK, len(data))]
    ranges += [(rng.randrange(len(data)), rng.randrange(2 * CHUNK)) for _ in range(10)]
    for offset, length in ranges:
        assert reader.read_range(path, offset, length) == data[offset : offset + length]


def test_streams_seek(reader: ArtifactReader, files: dict[str, bytes]) -> None:
    rng = random.Random(7)
    data = files[f"part/{SIZES[-1]}.bin"]
    with reader.open(f"part/{SIZES[-1]}.bin") as stream:
        assert stream.seekable()
        for _ in range(30):
            offset, length = rng.randrange(len(data)), rng.choice([1, 100, 10_000, CHUNK])
            stream.seek(offset)
            assert stream.read(length) == data[offset : offset + length]
        assert stream.seek(-3, os.SEEK_END) == len(data) - 3
        assert stream.read() == data[-3:]


def test_local_files_can_be_mapped_and_not_written(
    reader: ArtifactReader, files: dict[str, bytes]
) -> None:
    path = reader.local_path(f"part/{SIZES[-1]}.bin")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        assert view[:] == files[f"part/{SIZES[-1]}.bin"]
    assert path.stat().st_mode & 0o222 == 0


def test_nothing_is_copied_or_fetched_twice(reader: ArtifactReader, place) -> None:
    path = reader.local_path("part/1.bin")
    before = path.stat().st_ino
    assert reader.local_path("part/1.bin").stat().st_ino == before
    assert (reader.local_dir() / "part" / "1.bin").stat().st_ino == before
    assert reader.local_dir() == reader.local_dir()
    if place.uri.startswith("file:"):
        assert path.is_relative_to(place.root)


def test_a_reader_serves_the_component_contract(reader: ArtifactReader, store: Store) -> None:
    source: ArtifactBytes = reader
    artifact = Artifact("data", source)
    assert artifact.paths() == reader.paths()
    with artifact.open("part/1.bin") as stream:
        assert stream.read() == body(1)
    with store.draft() as draft:
        output = Artifact("out", draft)
        output.write_json("metrics.json", {"a": 1})
        ref = draft.commit(type="Metrics")
    assert Artifact("in", store.reader(ref)).read_json("metrics.json") == {"a": 1}


def test_an_input_cannot_be_written(reader: ArtifactReader) -> None:
    with pytest.raises(ArtifactError, match=r"Model of maker .* is an input"):
        reader.new_file("x")


def test_local_files_need_a_scratch_folder(store: Store, reader: ArtifactReader) -> None:
    with pytest.raises(ArtifactError, match="scratch"):
        store.reader(reader.digest).local_dir()


def test_an_unknown_path_is_named(reader: ArtifactReader) -> None:
    with pytest.raises(ArtifactNotFound, match=r"no file 'nope'.*part/1\.bin"):
        reader.open("nope")


WAYS: dict[str, Callable[[ArtifactReader, str], bytes]] = {
    "open": lambda reader, path: whole(reader, path),
    "range": lambda reader, path: reader.read_range(path, 0, 1 << 40),
    "local": lambda reader, path: reader.local_path(path).read_bytes(),
    "folder": lambda reader, path: (reader.local_dir() / path).read_bytes(),
}
DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda data: data[:-1],
    "emptied": lambda data: b"",
    "first byte": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "last byte": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "longer": lambda data: data + b"x",
    "missing": lambda data: None,
}


@pytest.mark.parametrize("size", [10, 2 * CHUNK + 5])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_bytes_are_never_read(
    store: Store, place, put, tmp_path: Path, size: int, way: str, damage: str
) -> None:
    data = body(size)
    ref = put(store, {"weights": data}, variant="causal-lm")
    reader = place.open().reader(ref, tmp_path / "scratch")
    if (bad := DAMAGE[damage](data)) is None:
        place.drop(blob_key(data))
    else:
        place.poke(blob_key(data), bad)
    expected = ArtifactNotFound if bad is None else ArtifactCorrupt
    with pytest.raises(expected) as caught:
        WAYS[way](reader, "weights")
    said = str(caught.value)
    for named in ("Model[causal-lm]", "maker", ref.digest, "weights", blob_key(data), "ubmit"):
        assert named in said
    assert hashlib.sha256(data).hexdigest() in said


@pytest.mark.parametrize("size", [10, 2 * CHUNK + 5])
def test_bytes_damaged_after_a_good_read_are_noticed(
    store: Store, place, put, tmp_path: Path, size: int
) -> None:
    data = body(size)
    ref = put(store, {"weights": data})
    assert whole(store.reader(ref), "weights") == data
    place.poke(blob_key(data), data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ArtifactCorrupt):
        whole(store.reader(ref), "weights")


@pytest.mark.parametrize("size", [10, 2 * CHUNK + 5])
@pytest.mark.parametrize("damage", DAMAGE)
def test_writing_the_artifact_again_heals_it(
    store: Store, place, put, size: int, damage: str
) -> None:
    data = body(size)
    ref = put(store, {"weights": data})
    if (bad := DAMAGE[damage](data)) is None:
        place.drop(blob_key(data))
    else:
        place.poke(blob_key(data), bad)
    assert put(store, {"weights": data}).digest == ref.digest
    assert whole(store.reader(ref), "weights") == data


@pytest.mark.parametrize("loss", ["lost", "damaged", "foreign"])
def test_lost_checks_are_made_again(store: Store, place, put, loss: str) -> None:
    """Verification stamps on file://, chunk digests on s3://: never trusted blindly."""
    data, other = body(2 * CHUNK + 5), body(2 * CHUNK + 6)
    ref = put(store, {"weights": data})
    put(store, {"weights": other})
    for key in (*place.keys("stamps/"), *place.keys("chunks/")):
        twin = next(k for k in (*place.keys("stamps/"), *place.keys("chunks/")) if k != key)
        match loss:
            case "lost":
                place.drop(key)
            case "damaged":
                place.poke(key, place.peek(key)[:-9])
            case "foreign":
                place.poke(key, place.peek(twin))
        if loss == "lost":
            break
    fresh = place.open()
    assert fresh.reader(ref).read_range("weights", 5, CHUNK) == data[5 : 5 + CHUNK]
    assert whole(fresh.reader(ref), "weights") == data
