"""A server that stumbles, refuses, is full or is away."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from crucible.artifacts import Store, open_store
from crucible.artifacts.s3_backend import S3Backend
from crucible.artifacts.s3_client import Patience
from crucible.errors import ArtifactError, StoreFull, StoreUnavailable, UserError
from crucible.testing.object_store import ObjectStore, object_store

QUICK = Patience(retries=2, backoff_seconds=0.01, connect_seconds=1.0, read_seconds=2.0)
PATIENT = Patience(retries=12, backoff_seconds=0.01, connect_seconds=1.0, read_seconds=5.0)
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


class Stumbling:
    """A TCP proxy that resets some connections in the middle of either direction's bytes."""

    def __init__(self, target: str, seed: int) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._rng = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.fault_fraction = 0.0
        self.faults = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if self._rng.random() < self.fault_fraction:
                    self.faults += 1
                    sink.sendall(data[: self._rng.randrange(len(data))])
                    reset = struct.pack("ii", 1, 0)  # linger 0: close sends RST
                    for end in (source, sink):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def stumbling(s3_server: ObjectStore) -> Iterator[Stumbling]:
    proxy = Stumbling(s3_server.endpoint, seed=7)
    yield proxy
    proxy.close()


def connect(server: ObjectStore, bucket: str, endpoint: str, patience: Patience) -> Store:
    environ = {**server.environ, "CRUCIBLE_S3_ENDPOINT": endpoint}
    return Store(S3Backend.connect(bucket, "faults", environ, patience, 1 << 16))


def test_broken_connections_are_survived(
    s3_server, s3_bucket, stumbling: Stumbling, put, read, tmp_path: Path
) -> None:
    store = connect(s3_server, s3_bucket, stumbling.endpoint, PATIENT)
    stumbling.fault_fraction = 0.05
    files = {f"{n}": random.Random(n).randbytes(1 << (4 * n)) for n in range(6)}
    ref = put(store, files)
    reader = store.reader(ref, tmp_path)
    for path, data in files.items():
        assert read(reader, path) == data
        assert reader.local_path(path).read_bytes() == data
    assert stumbling.faults > 3


def test_an_upload_in_parts_survives_broken_connections(
    s3_server, s3_bucket, stumbling: Stumbling, put, tmp_path: Path
) -> None:
    store = connect(s3_server, s3_bucket, stumbling.endpoint, PATIENT)
    data = random.Random(1).randbytes(40 << 20)
    stumbling.fault_fraction = 0.004
    ref = put(store, {"weights": data})
    assert store.reader(ref, tmp_path).local_path("weights").read_bytes() == data
    assert stumbling.faults > 0


def test_a_server_that_goes_away_is_unavailable(s3_server, s3_bucket, stumbling, put, read) -> None:
    store = connect(s3_server, s3_bucket, stumbling.endpoint, QUICK)
    ref = put(store, {"a": b"1" * 200_000})
    stumbling.fault_fraction = 1.0
    for work in (
        lambda: read(store.reader(ref), "a"),
        lambda: store.manifest(ref.digest),
        lambda: put(store, {"a": b"2"}),
        lambda: store.lease("r1", [ref.digest]),
    ):
        with pytest.raises(StoreUnavailable, match="CRUCIBLE_S3_ENDPOINT") as caught:
            work()
        assert caught.value.exit_code == 75
    stumbling.fault_fraction = 0.0
    assert read(store.reader(ref), "a") == b"1" * 200_000


def test_nobody_listening_is_unavailable_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="s3://bucket"):
        S3Backend.connect("bucket", "", {**KEYS, "CRUCIBLE_S3_ENDPOINT": endpoint}, QUICK)
    assert time.monotonic() - began < 10


def test_wrong_keys_and_buckets_are_the_users_mistake(s3_server, monkeypatch) -> None:
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"no bucket 'absent'.*CRUCIBLE_STORE"):
        open_store("s3://absent/prefix")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match="AWS_SECRET_ACCESS_KEY"):
        open_store("s3://absent/prefix")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UserError, match="needs credentials"):
        open_store("s3://absent/prefix")


@pytest.mark.parametrize("endpoint", ["host:9000", "ftp://host", "http://", "http://host/path"])
def test_a_bad_endpoint_is_the_users_mistake(endpoint: str) -> None:
    with pytest.raises(UserError, match="CRUCIBLE_S3_ENDPOINT"):
        S3Backend.connect("bucket", "", {**KEYS, "CRUCIBLE_S3_ENDPOINT": endpoint})


@contextlib.contextmanager
def refusing(status: int, code: str) -> Iterator[str]:
    """A server that has the bucket and answers all else with one S3 error."""
    body = f"<Error><Code>{code}</Code><Message>so it is</Message></Error>".encode()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            is_bucket = self.path.split("?")[0].strip("/") == "bucket"
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200 if is_bucket else status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(0 if is_bucket else len(body)))
            self.end_headers()
            self.wfile.write(b"" if is_bucket else body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "code", "error", "said"),
    [
        (507, "XMinioStorageFull", StoreFull, "no space left"),
        (403, "QuotaExceeded", StoreFull, "quota"),
        (403, "AccessDenied", UserError, "AWS_ACCESS_KEY_ID"),
        (503, "SlowDown", StoreUnavailable, "SlowDown"),
        (400, "EntityTooLarge", ArtifactError, "EntityTooLarge"),
    ],
)
def test_refusals_are_told_apart(status: int, code: str, error: type[Exception], said: str) -> None:
    with refusing(status, code) as endpoint:
        environ = {**KEYS, "CRUCIBLE_S3_ENDPOINT": endpoint}
        backend = S3Backend.connect("bucket", "", environ, QUICK)
        with pytest.raises(error, match=said):
            backend.write("cache/x", b"1")
        with pytest.raises(error, match=said):
            backend.read("cache/x")


def test_starting_a_server_changes_nothing_global_and_leaves_nothing(tmp_path: Path) -> None:
    before = dict(os.environ)
    with object_store() as server:
        assert dict(os.environ) == before
        bucket = server.make_bucket("mine")
        assert server.client().bucket_exists(bucket)
        assert Path(f"/proc/{server.pid}").exists()
    assert not Path(f"/proc/{server.pid}").exists()
    assert not server.data_dir.exists()


FORKING = """
    import os, sys
    from crucible.artifacts import open_store
    store = open_store(sys.argv[1])
    with store.draft() as draft:
        draft.new_file("a").write_bytes(b"x" * 100_000)
        digest = draft.commit(type="Model").digest
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            for _ in range(20):
                assert len(store.reader(digest).read_range("a", 0, 100_000)) == 100_000
            os._exit(0)
        children.append(child)
    print([os.waitpid(child, 0)[1] for child in children])
"""


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_forked_children_open_connections_of_their_own(place, start_python) -> None:
    assert start_python(FORKING).stdout.read() == "[0, 0, 0, 0]\n"
