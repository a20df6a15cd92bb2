"""Store put and get beside a plain file copy, and beside the raw minio client on s3://.

put: a file that a step has just written becomes a committed, durable artifact.
get: a consumer maps the verified file and touches every byte, first without and then with a
verification stamp. The peer copies a file of the same bytes and syncs the copy.
Usage: python tests/bench/store.py [--mib 512] [--rounds 5] [--no-s3]
"""

from __future__ import annotations

import argparse
import mmap
import os
import secrets
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import interleaved, print_result

from crucible.artifacts import ArtifactRef, Store
from crucible.artifacts.file_backend import FileBackend
from crucible.artifacts.s3_backend import S3Backend
from crucible.artifacts.s3_client import PART_BYTES
from crucible.testing.object_store import ObjectStore, object_store

GOAL = 0.67
"""At most 1.5 times the copy's time."""


class Bench:
    """One set of bytes, and the ways to move it."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.source.write_bytes(secrets.token_bytes(size_bytes))
        sync(self.source)
        self.store = Store(FileBackend(folder / "store"))
        self.ref: ArtifactRef | None = None

    def copy(self) -> float:
        target = self.folder / "copy"
        started = time.perf_counter()
        shutil.copyfile(self.source, target)
        sync(target)
        seconds = time.perf_counter() - started
        target.unlink()
        return seconds

    def put(self) -> float:
        seconds, self.ref = timed_commit(self.store, self.source)
        return seconds

    def get_first(self) -> float:
        shutil.rmtree(self.folder / "store" / "stamps")
        return self.get()

    def get(self) -> float:
        assert self.ref is not None
        started = time.perf_counter()
        touch(self.store.reader(self.ref.digest, self.folder / "scratch").local_path("weights"))
        return time.perf_counter() - started


class S3Bench:
    """The same through a bucket, and through the client alone."""

    def __init__(self, bench: Bench, server: ObjectStore) -> None:
        self._bench = bench
        self._client = server.client()
        self._bucket = server.make_bucket()
        self._store = Store(S3Backend.connect(self._bucket, "bench", server.environ))
        self._ref: ArtifactRef | None = None

    def put(self) -> float:
        drop_objects(self._client, self._bucket, "bench/")
        seconds, self._ref = timed_commit(self._store, self._bench.source)
        return seconds

    def raw_put(self) -> float:
        drop_objects(self._client, self._bucket, "raw/")
        with tempfile.TemporaryDirectory(dir=self._bench.folder) as folder:
            target = write_fresh(self._bench.source, Path(folder, "weights"))
            started = time.perf_counter()
            self._client.fput_object(self._bucket, "raw/weights", str(target), part_size=PART_BYTES)
            return time.perf_counter() - started

    def get(self) -> float:
        assert self._ref is not None
        with tempfile.TemporaryDirectory(dir=self._bench.folder) as scratch:
            started = time.perf_counter()
            touch(self._store.reader(self._ref, Path(scratch)).local_path("weights"))
            return time.perf_counter() - started

    def stream(self) -> float:
        assert self._ref is not None
        started = time.perf_counter()
        with self._store.reader(self._ref).open("weights") as stream:
            while stream.read(4 << 20):
                pass
        return time.perf_counter() - started

    def raw_get(self) -> float:
        with tempfile.TemporaryDirectory(dir=self._bench.folder) as scratch:
            started = time.perf_counter()
            self._client.fget_object(self._bucket, "raw/weights", f"{scratch}/weights")
            touch(Path(scratch, "weights"))
            return time.perf_counter() - started


def timed_commit(store: Store, source: Path) -> tuple[float, ArtifactRef]:
    with store.draft() as draft:
        write_fresh(source, draft.new_file("weights"))
        started = time.perf_counter()
        ref = draft.commit(type="Model", producer={"component": "bench"})
        return time.perf_counter() - started, ref


def write_fresh(source: Path, target: Path) -> Path:
    """What a step that has just ended leaves: unsynced bytes that no store has seen."""
    data = bytearray(source.read_bytes())
    data[:8] = secrets.token_bytes(8)
    target.write_bytes(data)
    return target


def touch(path: Path) -> None:
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        np.frombuffer(view, np.uint64).sum()


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def drop_objects(client: object, bucket: str, prefix: str) -> None:
    for item in client.list_objects(bucket, prefix, recursive=True):
        client.remove_object(bucket, item.object_name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-s3", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        bench = Bench(Path(folder), options.mib << 20)
        extra = {} if options.no_s3 else s3_figures(bench, options.rounds)
        contenders = {
            "put": bench.put,
            "copy": bench.copy,
            "get, never verified": bench.get_first,
            "get, verified before": bench.get,
        }
        figures = interleaved(contenders, num_rounds=options.rounds)
        slower = max(("put", "get, never verified"), key=lambda n: statistics.median(figures[n]))
        print_result(
            "store",
            ours=figures[slower],
            peer=figures["copy"],
            goal=GOAL,
            ours_is=slower,
            mib=options.mib,
            **{name: round(statistics.median(values), 4) for name, values in figures.items()},
            **extra,
        )


def s3_figures(bench: Bench, num_rounds: int) -> dict[str, float]:
    with object_store() as server:
        s3 = S3Bench(bench, server)
        contenders = {
            "s3 put": s3.put,
            "s3 raw put": s3.raw_put,
            "s3 get": s3.get,
            "s3 stream": s3.stream,
            "s3 raw get": s3.raw_get,
        }
        figures = interleaved(contenders, num_rounds=num_rounds)
    return {name: round(statistics.median(values), 4) for name, values in figures.items()}


if __name__ == "__main__":
    main()
