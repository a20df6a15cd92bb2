from pathlib import Path

import pytest

from crucible.artifacts import open_store
from crucible.artifacts.backend import Backend
from crucible.errors import StoreUnavailable
from crucible.sdk.store_checkpoint import StoreCheckpoints

FINGERPRINT = f"sha256:{'a' * 64}"


@pytest.fixture
def backend(tmp_path: Path) -> Backend:
    return open_store((tmp_path / "store").as_uri()).backend


@pytest.fixture
def scratch_dir(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def checkpoints(backend: Backend, scratch_dir: Path, run_id: str = "r1") -> StoreCheckpoints:
    return StoreCheckpoints(
        backend, fingerprint=FINGERPRINT, run_id=run_id, scratch_dir=scratch_dir / run_id
    )


def save(store: StoreCheckpoints, position: int, text: str = "x") -> None:
    with store.save(position) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "state.txt").write_text(text)


def latest(store: StoreCheckpoints) -> tuple[int, str] | None:
    found = store.latest()
    return None if found is None else (found[0], (found[1] / "sub" / "state.txt").read_text())


def names(backend: Backend) -> list[str]:
    keys = sorted(item.key for item in backend.listing("checkpoints/"))
    return [key.split("/", 2)[2] for key in keys]


def test_another_pod_finds_the_newest(backend: Backend, scratch_dir: Path) -> None:
    first = checkpoints(backend, scratch_dir)
    assert latest(first) is None
    for position in (10, 20, 30):
        save(first, position, f"at {position}")
    other = checkpoints(backend, scratch_dir / "elsewhere")
    assert latest(other) == (30, "at 30")


def test_one_older_is_kept_and_no_more(backend: Backend, scratch_dir: Path) -> None:
    store = checkpoints(backend, scratch_dir)
    for position in (10, 20, 30, 40):
        save(store, position)
    kept = {name.split("/")[1] for name in names(backend)}
    assert kept == {"00000002-at-30", "00000003-at-40"}


def test_a_save_that_raises_leaves_nothing(backend: Backend, scratch_dir: Path) -> None:
    store = checkpoints(backend, scratch_dir)
    save(store, 1, "good")

    def break_off() -> None:
        with store.save(2) as folder:
            (folder / "half").write_text("x")
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        break_off()
    assert latest(store) == (1, "good")
    assert not any("-at-2" in name for name in names(backend))


def test_an_upload_that_breaks_off_is_not_a_checkpoint(
    backend: Backend, scratch_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = checkpoints(backend, scratch_dir)
    save(store, 1, "good")
    real = backend.put_file

    def break_off(key: str, source: Path) -> None:
        if key.endswith("second"):
            raise StoreUnavailable("on purpose")
        real(key, source)

    monkeypatch.setattr(backend, "put_file", break_off)

    def save_two_files() -> None:
        with store.save(2) as folder:
            (folder / "first").write_text("x")
            (folder / "second").write_text("x")

    with pytest.raises(StoreUnavailable):
        save_two_files()
    assert latest(store) == (1, "good")


@pytest.mark.parametrize("damage", ["altered", "gone", "no record", "bad record", "bad name"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    backend: Backend, scratch_dir: Path, tmp_path: Path, damage: str
) -> None:
    store = checkpoints(backend, scratch_dir)
    save(store, 1, "older")
    save(store, 2, "newer")
    folder = next((tmp_path / "store").glob("checkpoints/*/r1/*-at-2"))
    if damage == "altered":
        (folder / "sub" / "state.txt").write_text("never")
    elif damage == "gone":
        (folder / "sub" / "state.txt").unlink()
    elif damage == "no record":
        (folder / "checkpoint.json").unlink()
    elif damage == "bad record":
        (folder / "checkpoint.json").write_text("{")
    else:
        record = '{"files": {"../../x": {"sha256": "0", "size_bytes": 1}}}'
        (folder / "checkpoint.json").write_text(record)
    assert latest(checkpoints(backend, scratch_dir / "other")) == (1, "older")


def test_a_store_that_is_away_is_no_reason_to_start_over(
    backend: Backend, scratch_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(checkpoints(backend, scratch_dir), 1)

    def away(key: str, size_bytes: int, target: Path) -> str:
        raise StoreUnavailable("on purpose")

    monkeypatch.setattr(backend, "get_file", away)
    with pytest.raises(StoreUnavailable):
        checkpoints(backend, scratch_dir / "other").latest()


def test_two_runs_of_one_step_do_not_remove_each_others(
    backend: Backend, scratch_dir: Path
) -> None:
    one, two = checkpoints(backend, scratch_dir, "r1"), checkpoints(backend, scratch_dir, "r2")
    save(one, 1, "one")
    for position in (2, 3, 4):
        save(two, position, f"two {position}")
    assert {name.split("/")[0] for name in names(backend)} == {"r1", "r2"}
    assert latest(one) == (4, "two 4")


def test_clear_removes_all_of_the_step(backend: Backend, scratch_dir: Path) -> None:
    one, two = checkpoints(backend, scratch_dir, "r1"), checkpoints(backend, scratch_dir, "r2")
    save(one, 1)
    save(two, 1)
    two.latest()
    two.clear()
    assert names(backend) == []
    assert latest(one) is None
    assert not (scratch_dir / "r2" / "checkpoints").exists()
