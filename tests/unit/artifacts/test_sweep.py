"""Garbage collection: what goes, what stays, and that nobody is surprised."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time

import pytest

from crucible.artifacts import ArtifactRef, CacheEntry, Store, gc
from crucible.artifacts import beacon as beacons
from crucible.artifacts.file_backend import FileBackend
from crucible.errors import ArtifactCorrupt, ArtifactNotFound, StoreUnavailable

FINGERPRINT = "sha256:" + "12" * 32


def is_whole(store: Store, ref: ArtifactRef) -> bool:
    try:
        reader = store.reader(ref.digest)
        for path in reader.paths():
            reader.read_range(path, 0, 1 << 30)
    except ArtifactNotFound:
        return False
    return True


def test_removes_exactly_what_no_manifest_reaches(store: Store, place, put) -> None:
    kept = put(store, {"a": b"shared", "b": b"kept" * 100_000})
    orphan = put(store, {"a": b"shared", "b": b"orphan" * 100_000})
    place.drop(f"manifests/sha256/{orphan.digest[7:9]}/{orphan.digest[7:]}")
    report = gc(store, grace_seconds=0)
    assert (report.removed_blobs, report.removed_bytes) == (1, 600_000)
    assert (report.kept_manifests, report.kept_blobs, report.kept_bytes) == (1, 2, 400_006)
    assert is_whole(store, kept)
    assert len(place.keys("blobs/")) == 2
    assert len(place.keys("chunks/")) <= 1
    assert gc(store, grace_seconds=0).removed_blobs == 0


def test_a_dry_run_reports_the_same_and_removes_nothing(store: Store, place, put) -> None:
    ref = put(store, {"a": b"1"})
    store.cache_put(FINGERPRINT, CacheEntry({"model": ref.digest}, "r1"))
    before = [key for key in place.keys("") if not key.startswith("sweeps/")]
    wanted = gc(store, dry_run=True, grace_seconds=0, roots=[], runs_to_keep=[])
    assert [key for key in place.keys("") if not key.startswith("sweeps/")] == before
    done = gc(store, grace_seconds=0, roots=[], runs_to_keep=[])
    assert {**wanted.to_json(), "dry_run": False} == done.to_json()
    assert (done.removed_blobs, done.removed_manifests, done.removed_cache_entries) == (1, 1, 1)
    assert "would remove 1 blobs" in wanted.describe()


def test_a_manifest_stays_while_anything_names_it(store: Store, put) -> None:
    refs = {name: put(store, {"a": name.encode()}) for name in ("root", "cache", "lease", "none")}
    store.cache_put(FINGERPRINT, CacheEntry({"model": refs["cache"].digest}, "r1"))
    store.lease("r1", [refs["lease"].digest])
    assert gc(store, grace_seconds=0).removed_manifests == 0
    assert gc(store, grace_seconds=0, roots=[refs["root"].digest]).removed_manifests == 1
    assert {name: is_whole(store, ref) for name, ref in refs.items()} == {
        "root": True,
        "cache": True,
        "lease": True,
        "none": False,
    }
    store.release_lease("r1")
    report = gc(store, grace_seconds=0, roots=[], runs_to_keep=["r1"])
    assert (report.removed_manifests, report.removed_cache_entries) == (2, 0)
    assert is_whole(store, refs["cache"])
    report = gc(store, grace_seconds=0, roots=[], runs_to_keep=["r2"])
    assert (report.removed_manifests, report.removed_cache_entries) == (1, 1)
    assert store.cache_get(FINGERPRINT) is None


def test_what_is_young_stays(store: Store, place, put) -> None:
    ref = put(store, {"a": b"1"})
    put(store, {"b": b"2"})
    place.drop(f"blobs/sha256/{ref.manifest.files[0].sha256[:2]}/{ref.manifest.files[0].sha256}")
    report = gc(store, grace_seconds=60, roots=[], runs_to_keep=[])
    assert (report.removed_manifests, report.removed_blobs) == (0, 0)


def test_an_unfinished_draft_stays_and_can_be_committed(store: Store, put) -> None:
    with store.draft() as draft:
        draft.new_file("a").write_bytes(b"1")
        gc(store, grace_seconds=0, roots=[])
        assert is_whole(store, draft.commit(type="Model"))


def test_the_remains_of_a_killed_writer_go(store: Store, place, start_python) -> None:
    code = """
        import os, sys, time
        from crucible.artifacts import open_store
        draft = open_store(sys.argv[1]).draft()
        draft.new_file("a").write_bytes(b"x" * 1000)
        print("written", flush=True)
        time.sleep(60)
    """
    process = start_python(code)
    assert process.stdout.readline() == "written\n"
    assert gc(store, grace_seconds=0).removed_remains == 0
    process.kill()
    process.wait()
    if isinstance(store.backend, FileBackend):
        report = gc(store, grace_seconds=0)
        assert (report.removed_remains, report.removed_remains_bytes) == (1, 1000)
        assert place.keys("staging/") == []
    else:
        # On s3 the files of a draft are local; what can stay behind is an upload in parts.
        place.client._create_multipart_upload(place.bucket, f"{place.prefix}/blobs/x", {})
        assert gc(store, grace_seconds=0).removed_remains == 1
    assert gc(store, grace_seconds=0).removed_remains == 0


def test_a_damaged_lease_or_manifest_stops_it(store: Store, place, put) -> None:
    ref = put(store, {"a": b"1"})
    store.lease("r1", [ref.digest])
    lease = place.keys("runs/")[0]
    place.poke(lease, b"{")
    with pytest.raises(ArtifactCorrupt, match=lease):
        gc(store, grace_seconds=0, roots=[])
    place.drop(lease)
    manifest = place.keys("manifests/")[0]
    place.poke(manifest, b"{}")
    with pytest.raises(ArtifactCorrupt, match=manifest):
        gc(store, grace_seconds=0)
    assert place.keys("blobs/") != []


def test_manifests_that_cannot_be_listed_stop_it(tmp_path, put, monkeypatch) -> None:
    store = Store(FileBackend(tmp_path))
    ref = put(store, {"a": b"1"})
    shard, scandir = tmp_path / "manifests/sha256" / ref.digest[7:9], os.scandir

    def refuse(path):
        if os.fspath(path) == str(shard):
            raise OSError(5, "Input/output error", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StoreUnavailable, match="Input/output error"):
        gc(store, grace_seconds=0)
    monkeypatch.undo()
    assert is_whole(store, ref)


FORKED = """
    import os, sys, time
    from crucible.artifacts import open_store
    store = open_store(sys.argv[1])
    with store.draft() as draft, store.backend.writing([]):
        child = os.fork()
        if not child:
            time.sleep(60)
    print(child, flush=True)
"""


@pytest.mark.parametrize("place", ["file"], indirect=True)
def test_a_child_forked_during_a_commit_does_not_hold_it_up(store: Store, start_python) -> None:
    child = int(start_python(FORKED).stdout.readline())
    began = time.monotonic()
    gc(store, grace_seconds=0)
    assert time.monotonic() - began < 30
    os.kill(child, signal.SIGKILL)


def test_an_empty_store_is_no_error(store: Store) -> None:
    assert gc(store, grace_seconds=0, roots=[], runs_to_keep=[]).removed_blobs == 0


def test_a_writer_waits_for_a_sweep(store: Store, place, put) -> None:
    """A writer whose bytes are there already must not rely on what a sweep is about to remove."""
    order: list[str] = []

    def write() -> None:
        put(place.open(), {"a": b"1"})
        order.append("written")

    with store.backend.sweeping():
        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(0.5)
        order.append("swept")
    writer.join()
    assert order == ["swept", "written"]


def test_nothing_acknowledged_is_lost_to_sweeps_that_run_all_the_time(
    store: Store, place, put, monkeypatch
) -> None:
    """Writers store the same few blobs over and over while sweeps remove every manifest."""
    monkeypatch.setattr(beacons, "_POLL_SECONDS", 0.02)
    ended = threading.Event()
    failures: list[str] = []
    done = [0]

    def write(number: int) -> None:
        mine = place.open()
        for turn in range(12):
            data = {"a": b"%d" % (turn % 3), "b": b"x" * 100_000}
            ref = put(mine, data)
            with contextlib.suppress(ArtifactNotFound):  # a sweep came between commit and lease
                mine.lease(f"run{number}", [ref.digest])
                if not is_whole(mine, ref):
                    failures.append(ref.digest)
                done[0] += 1
            mine.release_lease(f"run{number}")

    def sweep() -> None:
        mine = place.open()
        while not ended.is_set():
            gc(mine, grace_seconds=0, roots=[])

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    sweeper = threading.Thread(target=sweep)
    for thread in (*writers, sweeper):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    sweeper.join()
    assert failures == []
    assert done[0] > 0
    for key in place.keys("manifests/"):
        assert is_whole(store, ArtifactRef.of(store.manifest(f"sha256:{key[-64:]}"), store.uri))


def test_a_dead_sweep_or_writer_is_not_waited_for(s3_server, s3_bucket, monkeypatch) -> None:
    from crucible.artifacts.s3_backend import S3Backend

    backend = S3Backend.connect(s3_bucket, "dead-beacons", s3_server.environ)
    backend.write(f"{beacons.SWEEPS}dead", b"{}")
    backend.write(f"{beacons.WRITERS}dead", json.dumps({"digests": ["ab" * 32]}).encode())
    monkeypatch.setattr(beacons, "STALE_SECONDS", 2.0)
    monkeypatch.setattr(beacons, "REFRESH_SECONDS", 0.2)
    began = time.monotonic()
    with backend.sweeping() as sweep:
        assert "ab" * 32 in sweep.writing
    with backend.writing([]):
        waited = time.monotonic() - began
    assert 0.5 < waited < 10
    time.sleep(1)
    report = gc(Store(backend), grace_seconds=0)
    assert report.removed_remains == 2


def test_a_live_beacon_is_refreshed(s3_server, s3_bucket, monkeypatch) -> None:
    from crucible.artifacts.s3_backend import S3Backend

    monkeypatch.setattr(beacons, "REFRESH_SECONDS", 0.1)
    monkeypatch.setattr(beacons, "STALE_SECONDS", 2.0)
    writer = S3Backend.connect(s3_bucket, "live-beacons", s3_server.environ)
    with writer.writing(["cd" * 32]):
        time.sleep(3.5)
        with writer.sweeping() as sweep:
            assert sweep.writing == {"cd" * 32}
    with writer.sweeping() as sweep:
        assert sweep.writing == frozenset()


def test_grace_is_measured_by_age(tmp_path, put) -> None:
    store = Store(FileBackend(tmp_path))
    ref = put(store, {"a": b"1"})
    manifest = next((tmp_path / "manifests").rglob(ref.digest[7:]))
    os.utime(manifest, (time.time() - 100, time.time() - 100))
    assert gc(store, grace_seconds=200, roots=[]).removed_manifests == 0
    assert gc(store, grace_seconds=50, roots=[]).removed_manifests == 1
