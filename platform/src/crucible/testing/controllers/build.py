"""Controllers as static programs, built once and kept in this user's cache.

Their projects publish images where tests cannot reach them, and Go modules where they can. ``go/``
is one module that pins them with digests of all that they are made of: one set of libraries, the
newest that any of them asks for.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import subprocess
from pathlib import Path

from crucible.testing.cluster.go_programs import build_program, cache_home, sources_digest

logger = logging.getLogger(__name__)

_SOURCES = Path(__file__).parent / "go"
_LDFLAGS = "-s -w"


def build_controller(package: str) -> Path:
    """A program; the first build takes minutes.

    Args:
        package: Go's name of it.

    Raises:
        FileNotFoundError: no Go here, or a module could not be fetched.
        ClusterFailed: the build failed; with what the compiler said.
    """
    if shutil.which("go") is None:
        raise FileNotFoundError("no Go here. Put it on the path")
    folder = cache_home() / "controllers" / sources_digest(_SOURCES, _LDFLAGS)
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / package.rpartition("/")[2]
    with (folder / ".lock").open("w") as lock:  # another process may be building the same
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _build(package, program)
    return program


def _build(package: str, program: Path) -> None:
    logger.info("building %s, which takes minutes the first time", package)
    fetched = subprocess.run(
        ["go", "mod", "download"], cwd=_SOURCES, capture_output=True, text=True, check=False
    )
    if fetched.returncode:
        raise FileNotFoundError(f"modules of {package}: {fetched.stderr.strip()[-2000:]}")
    build_program(package, _SOURCES, program, ldflags=_LDFLAGS)
