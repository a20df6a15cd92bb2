"""What a journal says was done was done, whenever the process was killed."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from crucible_components.merging.execution.journal import Journal


def test_another_process_finds_what_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = Journal(path, "a merge")
    first.record({"one": {"x": 0.1}, "two": 2})
    first.record({"three": None})
    assert Journal(path, "a merge").done == {"one": {"x": 0.1}, "two": 2, "three": None}
    assert Journal(path, "another merge").done == {}
    assert Journal(path, "a merge").done == {}, "the other merge had begun anew"


@given(st.data())
def test_a_journal_cut_anywhere_holds_whole_entries(
    tmp_path_factory: object, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "journal.jsonl"  # type: ignore[attr-defined]
    journal = Journal(path, "k")
    head = path.stat().st_size
    ends = [head]
    for number in range(3):
        journal.record({f"t{number}": number})
        ends.append(path.stat().st_size)
    size = data.draw(st.integers(head, ends[-1]))
    path.write_bytes(path.read_bytes()[:size])
    resumed = Journal(path, "k")
    whole = sum(end <= size for end in ends[1:])
    assert resumed.done == {f"t{n}": n for n in range(whole)}
    resumed.record({"next": 1})
    assert set(Journal(path, "k").done) == {*resumed.done}
