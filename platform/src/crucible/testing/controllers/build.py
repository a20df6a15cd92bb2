"""Controllers as static programs, built once and kept in this user's cache.

Their projects publish images where tests cannot reach them, and Go modules where they can. Each
folder under ``go/`` pins one set with digests of all that it is made of.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

from crucible.testing.cluster import ClusterFailed

logger = logging.getLogger(__name__)

_SOURCES = Path(__file__).parent / "go"


def build_controller(package: str, pins: str) -> Path:
    """A program; the first build takes minutes.

    Args:
        package: Go's name of it.
        pins: folder under ``go/``.

    Raises:
        FileNotFoundError: no Go here, or a module could not be fetched.
        ClusterFailed: the build failed; with what the compiler said.
    """
    if shutil.which("go") is None:
        raise FileNotFoundError("no Go here. Put it on the path")
    folder = _cache(pins)
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / package.rpartition("/")[2]
    with (folder / ".lock").open("w") as lock:  # another process may be building the same
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _build(package, pins, program)
    return program


def _build(package: str, pins: str, program: Path) -> None:
    logger.info("building %s, which takes minutes the first time", package)
    started = time.monotonic()
    partial = program.with_suffix(".partial")
    environ = {**os.environ, "CGO_ENABLED": "0"}
    commands = (
        ["go", "mod", "download"],
        ["go", "build", "-trimpath", "-ldflags", "-s -w", "-o", str(partial), package],
    )
    for command in commands:
        done = subprocess.run(
            command, cwd=_SOURCES / pins, env=environ, capture_output=True, text=True, check=False
        )
        if done.returncode and command[1] == "mod":
            raise FileNotFoundError(f"modules of {package}: {done.stderr.strip()[-2000:]}")
        if done.returncode:
            raise ClusterFailed(f"building {package} failed:\n{done.stderr[-4000:]}")
    partial.rename(program)
    logger.info("built %s in %.0f s", package, time.monotonic() - started)


def _cache(pins: str) -> Path:
    digest = hashlib.sha256(platform.machine().encode())
    for path in sorted((_SOURCES / pins).iterdir()):
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "crucible" / "controllers" / f"{pins}-{digest.hexdigest()[:12]}"
