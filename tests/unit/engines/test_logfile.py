"""Capped logs: both ends are kept, whoever reads when."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible.engines.local.logfile import CappedLog, read_lines, tail

MAX_BYTES = 8000


def lines_of(path: Path) -> list[str]:
    return [line for line in read_lines(path) if line is not None]


def numbered(count: int) -> list[str]:
    return [f"line {number:06d}" for number in range(count)]


def write(path: Path, lines: list[str], piece_bytes: int = 1000) -> None:
    log = CappedLog(path, MAX_BYTES)
    data = "".join(f"{line}\n" for line in lines).encode()
    for begin in range(0, len(data), piece_bytes):
        log.write(data[begin : begin + piece_bytes])
    log.close()


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 2500), piece_bytes=st.integers(1, 20_000))
def test_size_is_bounded_and_both_ends_are_there(count: int, piece_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log.txt")
        expected = numbered(count)
        write(path, expected, piece_bytes)
        assert sum(part.stat().st_size for part in path.parent.iterdir()) < MAX_BYTES + 300
        found = lines_of(path)
        genuine = [line for line in found if line in set(expected)]
        if 12 * count <= MAX_BYTES // 2:
            assert found == expected
        elif 12 * count > MAX_BYTES // 2 + 12:
            assert any("[crucible] the log goes on" in line for line in found)
        if not any("dropped here" in line for line in found):
            assert genuine == expected
        assert genuine[:300] == expected[:300]
        assert genuine[-100:] == expected[-100:]
        told = [line for line in tail(path, 20) if not line.startswith("[crucible]")]
        assert told == expected[len(expected) - len(told) :]
        assert len(told) >= min(19, count)


def test_a_log_whose_writer_was_killed_is_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    log = CappedLog(path, MAX_BYTES)
    log.write("".join(f"{line}\n" for line in numbered(3000)).encode())
    assert lines_of(path)[-1] == numbered(3000)[-1]
    assert tail(path)[-1] == numbered(3000)[-1]
    log.close()


def test_following_sees_every_line_of_a_writer_that_it_keeps_up_with(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    expected = numbered(1500)
    done = threading.Event()

    def produce() -> None:
        log = CappedLog(path, MAX_BYTES)
        for begin in range(0, len(expected), 50):
            log.write("".join(f"{line}\n" for line in expected[begin : begin + 50]).encode())
            time.sleep(0.01)
        log.close()
        done.set()

    writer = threading.Thread(target=produce)
    writer.start()
    found = []
    for line in read_lines(path, is_over=done.is_set):
        if line is None:
            time.sleep(0.001)
        else:
            found.append(line)
    writer.join()
    assert [line for line in found if line in set(expected)] == expected


def test_a_log_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    over = iter([False, False, True])
    reader = read_lines(path, is_over=lambda: next(over))
    assert next(reader) is None
    path.write_text("at last\n")
    assert [line for line in reader if line is not None] == ["at last"]


def test_a_missing_log_has_no_lines(tmp_path: Path) -> None:
    assert lines_of(tmp_path / "log.txt") == []
    assert tail(tmp_path / "log.txt") == ()


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"no end", ["no end"]),
        (b"\xff\xfe bytes\n", ["\ufffd\ufffd bytes"]),
        (b"\n\n", ["", ""]),
    ],
)
def test_lines_are_text_without_ends(tmp_path: Path, data: bytes, lines: list[str]) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(data)
    assert lines_of(path) == lines


def test_a_line_of_megabytes_comes_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"x" * (5 << 20) + b"\nend\n")
    lines = lines_of(path)
    assert "".join(lines[:-1]) == "x" * (5 << 20)
    assert max(map(len, lines)) <= 1 << 20
    assert lines[-1] == "end"
