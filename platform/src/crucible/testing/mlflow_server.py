"""A real MLflow server for tests, on SQLite, as a process of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 120.0
_TAIL_LINES = 20


@contextlib.contextmanager
def mlflow_server(folder: Path, *, address: str = "127.0.0.1") -> Iterator[str]:
    """Start MLflow on a free port; yields its URL and stops it when the block ends.

    Args:
        folder: keeps its database, artifacts and log.
        address: to listen on; pods of a cluster reach this machine at an address of its own.

    Raises:
        RuntimeError: it did not come up; with its last log lines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port(address)
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(folder, address, port),
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://{address}:{port}"
        _wait(process, f"{url}/health", log)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _command(folder: Path, address: str, port: int) -> list[str]:
    program = Path(sys.executable).with_name("mlflow")
    return [
        str(program),
        "server",
        f"--host={address}",
        f"--port={port}",
        "--workers=1",
        f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}",
        f"--artifacts-destination={folder / 'artifacts'}",
        "--allowed-hosts=*",
    ]


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    import urllib3

    deadline = time.monotonic() + START_SECONDS
    with urllib3.PoolManager(retries=False, timeout=2.0) as pool:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                if pool.request("GET", url).status == 200:
                    return
            time.sleep(0.2)
    said = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    raise RuntimeError(f"MLflow did not start in {START_SECONDS:.0f} s. It said:\n{said}")


def _free_port(address: str) -> int:
    with socket.socket() as held:
        held.bind((address, 0))
        port: int = held.getsockname()[1]
        return port
