import random
from pathlib import Path

import pytest

from crucible.artifacts import open_store
from crucible.artifacts.backend import Backend
from crucible.errors import StoreUnavailable
from crucible.journal import LineReader, StreamReader, StreamWriter, stream


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    return open_store((tmp_path / "store").as_uri()).backend


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(stream, "PART_BYTES", 100)
    return 100


def test_nothing_written_is_nothing_read(backend: Backend, tmp_path: Path) -> None:
    StreamWriter(backend, "log/", tmp_path / "log.txt").flush()
    assert StreamReader(backend, "log/").read() == b""


def test_a_reader_sees_every_byte_once_whatever_the_pace(
    backend: Backend, tmp_path: Path, small_parts: int
) -> None:
    rng = random.Random(7)
    source = tmp_path / "log.txt"
    writer, reader = StreamWriter(backend, "log/", source), StreamReader(backend, "log/")
    written = read = b""
    for _ in range(200):
        piece = rng.randbytes(rng.randrange(0, 3 * small_parts))
        with source.open("ab") as sink:
            sink.write(piece)
        written += piece
        if rng.random() < 0.5:
            writer.flush()
        if rng.random() < 0.5:
            read += reader.read()
        assert written.startswith(read)
    writer.flush()
    read += reader.read()
    assert read == written
    assert StreamReader(backend, "log/").read() == written


def test_a_full_part_is_never_written_again(
    backend: Backend, tmp_path: Path, small_parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[str] = []
    real = backend.write

    def write(key: str, data: bytes, *, durable: bool = True) -> None:
        keys.append(key)
        real(key, data, durable=durable)

    monkeypatch.setattr(backend, "write", write)
    source = tmp_path / "log.txt"
    writer = StreamWriter(backend, "log/", source)
    source.write_bytes(bytes(small_parts * 2 + 1))
    writer.flush()
    writer.flush()
    assert keys == ["log/000000", "log/000001", "log/000002"]


def test_what_a_store_refused_is_sent_by_the_next_flush(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "log.txt"
    source.write_bytes(b"hello\n")
    writer = StreamWriter(backend, "log/", source)

    def refuse(key: str, data: bytes, *, durable: bool = True) -> None:
        raise StoreUnavailable("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(backend, "write", refuse)
        with pytest.raises(StoreUnavailable):
            writer.flush()
    writer.flush()
    assert StreamReader(backend, "log/").read() == b"hello\n"


def test_lines_are_whole_until_the_end(backend: Backend, tmp_path: Path) -> None:
    source = tmp_path / "log.txt"
    writer, lines = (
        StreamWriter(backend, "log/", source),
        LineReader(StreamReader(backend, "log/")),
    )
    source.write_bytes(b"one\ntw")
    writer.flush()
    assert lines.read() == ["one"]
    source.write_bytes(b"one\ntwo\nthr\xff")
    writer.flush()
    assert lines.read() == ["two"]
    assert lines.read() == []
    assert lines.read(final=True) == ["thr\N{REPLACEMENT CHARACTER}"]
    assert lines.read(final=True) == []
