"""Controllers as static programs, built once and kept in this user's cache.

Their projects publish images where tests cannot reach them, and Go modules where they can. Each
folder under ``go/`` pins one set with digests of all that it is made of.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import shutil
import subprocess
from pathlib import Path

from crucible.testing.cluster.go_programs import build_program, cache_home, sources_digest

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
    source, environ = _SOURCES / pins, {**os.environ, "CGO_ENABLED": "0"}
    fetched = subprocess.run(
        ["go", "mod", "download"], cwd=source, env=environ, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if fetched.returncode:
        raise FileNotFoundError(f"modules of {package}: {fetched.stderr.strip()[-2000:]}")
    build_program(package, source, program, ldflags="-s -w", environ=environ)


def _cache(pins: str) -> Path:
    digest = sources_digest(_SOURCES / pins, platform.machine())
    return cache_home() / "controllers" / f"{pins}-{digest}"
