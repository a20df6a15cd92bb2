"""Processes that write at the same time, are killed at any moment, or run out of space."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crucible.artifacts import ArtifactRef, CacheEntry, Store, beacon, gc, open_store
from crucible.errors import StoreFull

WRITER = """
    import hashlib, os, random, sys
    from crucible.artifacts import CacheEntry, open_store
    store, rng = open_store(sys.argv[1]), random.Random(int(sys.argv[2]))
    for turn in range(int(sys.argv[3])):
        content = rng.randrange(6)
        fingerprint = "sha256:" + hashlib.sha256(b"%d" % content).hexdigest()
        with store.draft() as draft:
            for name in ("a", "sub/b", "c"):
                data = random.Random(f"{content}{name}").randbytes(1 << rng.choice([4, 12, 18]))
                draft.new_file(name).write_bytes(data)
            ref = draft.commit(type="Model", metadata={"content": content})
        store.cache_put(fingerprint, CacheEntry({"model": ref.digest}, "r1"))
        print(ref.digest, fingerprint, flush=True)
"""


def check_everything(store: Store, place) -> int:
    """Read every byte that any manifest of the store names; returns how many manifests."""
    keys = [key for key in place.keys("manifests/") if not key.endswith(".tmp")]
    for key in keys:
        reader = store.reader(f"sha256:{key[-64:]}")
        for entry in reader.manifest.files:
            assert len(reader.read_range(entry.path, 0, 1 << 30)) == entry.size_bytes
    return len(keys)


@pytest.mark.slow
def test_many_processes_write_the_same_and_a_sweep_runs(store: Store, place, start_python) -> None:
    writers = [start_python(WRITER, str(seed), "8") for seed in range(3)]
    while any(writer.poll() is None for writer in writers):
        gc(store, grace_seconds=0)
    acknowledged: dict[str, set[str]] = {}
    for writer in writers:
        for line in writer.stdout.read().splitlines():
            digest, fingerprint = line.split()
            acknowledged.setdefault(fingerprint, set()).add(digest)
        assert writer.returncode == 0
    assert check_everything(store, place) == len(set().union(*acknowledged.values()))
    for fingerprint, digests in acknowledged.items():
        entry = store.cache_get(fingerprint)
        assert entry is not None
        assert entry.outputs["model"] in digests


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_writer_killed_at_any_moment_leaves_a_sound_store(
    store: Store, place, start_python, seed: int
) -> None:
    rng = random.Random(seed)
    acknowledged: set[tuple[str, ...]] = set()
    for number in range(5 if place.uri.startswith("file:") else 2):
        writer = start_python(WRITER, str(100 * seed + number), "1000")
        lines = [writer.stdout.readline()]
        time.sleep(rng.uniform(0, 0.2))
        writer.kill()
        lines += writer.stdout.read().splitlines(keepends=True)
        acknowledged |= {tuple(line.split()) for line in lines if line.endswith("\n")}
    assert len(acknowledged) >= 1
    check_everything(store, place)
    for digest, _ in acknowledged:
        assert digest.removeprefix("sha256:") in {key[-64:] for key in place.keys("manifests/")}
    gc(store, grace_seconds=0)
    check_everything(store, place)
    assert place.keys("staging/") == []
    for _, fingerprint in acknowledged:
        assert store.cache_get(fingerprint) is not None


SWEEPER = """
    import random, sys
    from crucible.artifacts import CacheEntry, gc, open_store
    store, rng = open_store(sys.argv[1]), random.Random(int(sys.argv[2]))
    while True:
        with store.draft() as draft:
            for name in "abcd":
                draft.new_file(name).write_bytes(rng.randbytes(1 << rng.choice([4, 12])))
            draft.commit(type="Model")
        print("written", flush=True)
        gc(store, grace_seconds=0, roots=[])
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_sweep_killed_at_any_moment_leaves_no_manifest_without_its_bytes(
    store: Store, place, put, start_python, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    kept = put(store, {"a": b"kept"})
    store.lease("r1", [kept.digest])
    sweeper = start_python(SWEEPER, str(seed))
    for _ in range(2):
        assert sweeper.stdout.readline() == "written\n"
    time.sleep(random.Random(seed).uniform(0, 0.05))
    sweeper.kill()
    sweeper.wait()
    assert check_everything(store, place) >= 1
    monkeypatch.setattr(beacon, "STALE_SECONDS", 2.0)  # on s3 the dead sweep's beacon still stands
    monkeypatch.setattr(beacon, "REFRESH_SECONDS", 0.2)
    put(store, {"a": b"new"})
    time.sleep(0 if place.uri.startswith("file:") else 2.1)
    gc(store, grace_seconds=0, roots=[])
    assert check_everything(store, place) == 1
    assert {key.split("/")[0] for key in place.keys("")} & {"staging", "sweeps", "writers"} == set()


def test_parallel_threads_share_a_store(store: Store, put, place) -> None:
    def work(number: int) -> ArtifactRef:
        return put(store, {"a": b"%d" % (number % 3) * 70_000, "b": b"same"})

    with ThreadPoolExecutor(6) as pool:
        refs = list(pool.map(work, range(18)))
    assert len({ref.digest for ref in refs}) == 3
    assert check_everything(store, place) == 3


@contextlib.contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a full disk needs a small one, and mounting is not allowed: {done.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_harms_nothing(tmp_path: Path, put) -> None:
    mine = tmp_path / "mine.bin"
    mine.write_bytes(random.Random(1).randbytes(3 << 20))
    with small_disk(tmp_path / "disk", 4) as disk:
        store = open_store((disk / "store").as_uri())
        kept = put(store, {"a": b"kept"})
        first = store.put_tree(mine, type="Dataset")
        mine.write_bytes(random.Random(2).randbytes(3 << 20))
        with pytest.raises(StoreFull, match=r"no space left at .*artifacts gc") as caught:
            store.put_tree(mine, type="Dataset")
        assert caught.value.exit_code == 1
        assert len([*(disk / "store" / "manifests").rglob("?" * 64)]) == 2
        assert store.manifest(kept.digest) == kept.manifest
        assert gc(store, grace_seconds=0, roots=[kept.digest]).removed_bytes == 3 << 20
        assert store.put_tree(mine, type="Dataset").digest != first.digest


@pytest.mark.parametrize("step", ["manifest", "cache"])
def test_a_disk_that_fills_up_late_is_named_too(tmp_path: Path, put, step: str) -> None:
    """The bytes are in, but not even the small document that names them fits."""
    with small_disk(tmp_path / "disk", 1) as disk:
        store = open_store((disk / "store").as_uri())
        kept = put(store, {"a": b"kept"})
        draft = store.draft()
        draft.new_file("b").write_bytes(b"1")
        with contextlib.suppress(OSError), (disk / "filler").open("wb") as filler:
            while True:
                filler.write(bytes(4096))
                filler.flush()
        entry = CacheEntry({"a": kept.digest}, "r1")
        late = {
            "manifest": lambda: draft.commit(type="Model"),
            "cache": lambda: store.cache_put("sha256:" + "1" * 64, entry),
        }
        with pytest.raises(StoreFull):
            late[step]()
        draft.abandon()
        (disk / "filler").unlink()
        assert len([*(disk / "store" / "manifests").rglob("?" * 64)]) == 1
        assert list(disk.rglob("*.tmp")) == []
        assert store.manifest(kept.digest) == kept.manifest


MEMORY = """
    import os, resource, sys
    from pathlib import Path
    from crucible.artifacts import open_store
    store, scratch, size = open_store(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    with store.draft(scratch) as draft:
        draft.new_file("small").write_bytes(b"x" * 5_000_000)
        draft.commit(type="Model")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with store.draft(scratch) as draft:
        with draft.new_file("weights").open("wb") as stream:
            stream.truncate(size)
        ref = draft.commit(type="Model")
    reader = store.reader(ref, scratch)
    with reader.open("weights") as stream:
        while stream.read(1 << 20):
            pass
    reader.local_path("weights")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_large_files_pass_in_constant_memory(store: Store, start_python, tmp_path: Path) -> None:
    size = 144 << 20
    process = start_python(MEMORY, str(tmp_path / "scratch"), str(size))
    grown_kib = int(process.stdout.read())
    assert grown_kib < 112 << 10, f"{grown_kib} KiB for a file of {size >> 10} KiB"
