import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crucible.sdk.checkpoint import FolderCheckpoints

SAVE_FOREVER = """
import sys
from pathlib import Path
from crucible.sdk.checkpoint import FolderCheckpoints
store = FolderCheckpoints(Path(sys.argv[1]))
found = store.latest()
position = found[0] + 1 if found else 0
while True:
    with store.save(position) as folder:
        for name in ("a.bin", "b.bin"):
            (folder / "sub").mkdir(exist_ok=True)
            (folder / "sub" / name).write_bytes(bytes([position % 256]) * 50_000)
    print(position, flush=True)
    position += 1
"""


def save(store: FolderCheckpoints, position: int, text: str = "x") -> None:
    with store.save(position) as folder:
        (folder / "state.txt").write_text(text)


def latest_text(folder: Path) -> tuple[int, str] | None:
    store = FolderCheckpoints(folder)
    found = store.latest()
    store.close()
    return None if found is None else (found[0], (found[1] / "state.txt").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def test_nothing_saved_is_none(folder: Path) -> None:
    assert FolderCheckpoints(folder).latest() is None


def test_newest_is_found_and_one_older_kept(folder: Path) -> None:
    store = FolderCheckpoints(folder)
    for position in (10, 20, 30, 40):
        save(store, position, f"at {position}")
    store.close()
    assert latest_text(folder) == (40, "at 40")
    assert sorted(path.name for path in folder.iterdir()) == [
        "00000002-at-30",
        "00000003-at-40",
        "lock",
    ]


def test_keep_older_zero_keeps_one(folder: Path) -> None:
    store = FolderCheckpoints(folder, keep_older=0)
    save(store, 1)
    save(store, 2)
    assert [path.name for path in folder.glob("*-at-*")] == ["00000001-at-2"]


def test_last_save_wins_whatever_its_position(folder: Path) -> None:
    store = FolderCheckpoints(folder)
    save(store, 20, "first")
    save(store, 10, "second")
    save(store, 10, "third")
    store.close()
    assert latest_text(folder) == (10, "third")


@pytest.mark.parametrize("damage", ["alter", "truncate", "remove", "record", "no record"])
def test_damaged_checkpoint_falls_back_to_the_one_before(
    folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = FolderCheckpoints(folder)
    save(store, 1, "old")
    save(store, 2, "new")
    store.close()
    newest = folder / "00000001-at-2"
    state = newest / "files" / "state.txt"
    match damage:
        case "alter":
            state.write_text("mew")
        case "truncate":
            state.write_text("")
        case "remove":
            state.unlink()
        case "record":
            (newest / "checkpoint.json").write_text('{"files": 3}')
        case _:
            (newest / "checkpoint.json").unlink()
    assert latest_text(folder) == (1, "old")
    assert "is not used" in caplog.text


def test_all_damaged_is_none(folder: Path) -> None:
    store = FolderCheckpoints(folder)
    save(store, 1)
    store.close()
    (folder / "00000000-at-1" / "files" / "state.txt").write_text("other")
    assert latest_text(folder) is None


def test_exception_inside_the_block_leaves_no_trace(folder: Path) -> None:
    store = FolderCheckpoints(folder)
    save(store, 1)
    with pytest.raises(ZeroDivisionError), store.save(2) as target:
        (target / "half").write_text(str(1 // 0))
    assert sorted(path.name for path in folder.iterdir()) == ["00000000-at-1", "lock"]


def test_clear_removes_the_folder_and_it_can_be_used_again(folder: Path) -> None:
    store = FolderCheckpoints(folder)
    save(store, 1)
    store.clear()
    assert not folder.exists()
    assert store.latest() is None
    save(store, 2)
    assert store.latest() is not None


def test_clear_of_a_folder_never_used_makes_nothing(folder: Path) -> None:
    FolderCheckpoints(folder).clear()
    assert not folder.exists()


def test_second_process_of_the_same_fingerprint_does_not_disturb(folder: Path) -> None:
    first, second = FolderCheckpoints(folder), FolderCheckpoints(folder)
    save(first, 1, "first")
    assert second.latest() is None
    with second.save(5) as target:
        (target / "state.txt").write_text("second")
        first.clear()
    found = second.latest()
    assert found is not None
    assert found[0] == 5
    second.clear()
    assert not list(folder.parent.iterdir())


def test_kill_at_any_moment_loses_nothing_acknowledged(folder: Path) -> None:
    rng = random.Random(5)
    acknowledged = -1
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, str(folder)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            lines = [first, *process.stdout.read().split()]
        acknowledged = max(acknowledged, int(lines[-1]))
        store = FolderCheckpoints(folder)
        found = store.latest()
        store.close()
        assert found is not None
        position, files = found
        assert acknowledged <= position <= acknowledged + 1
        for name in ("a.bin", "b.bin"):
            data = (files / "sub" / name).read_bytes()
            assert data == bytes([position % 256]) * 50_000
    store = FolderCheckpoints(folder)
    save(store, 10_000)
    assert len(list(folder.iterdir())) == 3  # two checkpoints, the lock, no rubbish of the killed
