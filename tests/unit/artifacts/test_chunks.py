from __future__ import annotations

import hashlib
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible.artifacts.chunks import ChunkList, RangedStream, chunk_digests

CHUNK = 16


def chunk_list(data: bytes) -> ChunkList:
    digests = [hashlib.sha256(data[i : i + CHUNK]).hexdigest() for i in range(0, len(data), CHUNK)]
    whole = hashlib.sha256(data).hexdigest()
    return ChunkList(whole, len(data), tuple(digests), CHUNK, "etag")


many = settings(max_examples=200)
bodies = st.binary(max_size=10 * CHUNK)


@given(bodies)
def test_chunks_of_a_file_are_those_of_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "chunks.bin"
    path.write_bytes(data)
    assert chunk_digests(path, CHUNK) == chunk_list(data).chunk_sha256s


@many
@given(bodies, st.integers(0, 11 * CHUNK), st.integers(0, 11 * CHUNK))
def test_aligned_covers_the_range_with_whole_chunks(data: bytes, offset: int, length: int) -> None:
    offset = min(offset, len(data))
    start, covered = chunk_list(data).aligned(offset, length)
    assert start % CHUNK == 0
    assert start <= offset < start + CHUNK
    assert start + covered == len(data) or (start + covered) % CHUNK == 0
    assert start + covered >= min(offset + length, len(data))


@many
@given(st.binary(min_size=1, max_size=10 * CHUNK), st.data())
def test_a_changed_byte_is_found(data: bytes, choose: st.DataObject) -> None:
    good = chunk_list(data)
    at = choose.draw(st.integers(0, len(data) - 1))
    bad = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    assert good.check(0, data) is None
    assert good.check(0, bad) is not None
    start, covered = good.aligned(at, 1)
    assert good.check(start, bad[start : start + covered]) is not None


@given(bodies)
def test_the_list_survives_json(data: bytes) -> None:
    assert ChunkList.from_json(chunk_list(data).to_json()) == chunk_list(data)


@given(st.data())
def test_a_damaged_list_is_refused(choose: st.DataObject) -> None:
    text = bytearray(chunk_list(b"x" * 40).to_json())
    at = choose.draw(st.integers(0, len(text) - 1))
    text[at] ^= choose.draw(st.integers(1, 255))
    with pytest.raises(ValueError):  # noqa: PT011 - any parse error or the checksum
        ChunkList.from_json(bytes(text))


operations = st.lists(
    st.one_of(
        st.tuples(st.just("seek"), st.integers(0, 12 * CHUNK)),
        st.tuples(st.just("read"), st.integers(-1, 6 * CHUNK)),
        st.tuples(st.just("back"), st.integers(0, 2 * CHUNK)),
    ),
    max_size=20,
)


@many
@given(bodies, operations, st.integers(1, 3 * CHUNK))
def test_reads_like_a_file(data: bytes, ops: list[tuple[str, int]], buffer_bytes: int) -> None:
    def fetch(offset: int, length: int) -> bytes:
        assert offset % CHUNK == 0
        assert offset < len(data)
        return data[offset : offset + length]

    ours = io.BufferedReader(RangedStream(len(data), fetch, CHUNK), buffer_bytes)
    oracle = io.BytesIO(data)
    for name, amount in ops:
        if name == "seek":
            assert ours.seek(amount) == oracle.seek(amount)
        elif name == "back":
            amount = min(amount, len(data))
            assert ours.seek(-amount, io.SEEK_END) == oracle.seek(-amount, io.SEEK_END)
        else:
            assert ours.read(amount) == oracle.read(amount)
        assert ours.tell() == oracle.tell()


def test_sequential_reads_fetch_ever_more_at_once() -> None:
    data = bytes(60 * CHUNK)
    fetched = []

    def fetch(offset: int, length: int) -> bytes:
        fetched.append(length)
        return data[offset : offset + length]

    with io.BufferedReader(RangedStream(len(data), fetch, CHUNK), CHUNK) as stream:
        while stream.read(CHUNK):
            pass
    assert fetched[:5] == [CHUNK, 2 * CHUNK, 4 * CHUNK, 8 * CHUNK, 8 * CHUNK]


def test_a_bad_seek_is_refused() -> None:
    stream = RangedStream(10, lambda offset, length: b"", CHUNK)
    with pytest.raises(ValueError, match="whence"):
        stream.seek(0, 7)
    with pytest.raises(ValueError, match="before the start"):
        stream.seek(-1)
