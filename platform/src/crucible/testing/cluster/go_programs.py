"""Programs built from Go modules into this user's cache, each set under a digest of its sources.

They are built for tests: sooner, smaller, and somewhat slower than those that their projects
publish. Without the tables of a debugger and without inlining, the compiler needs a third less
time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import subprocess
import time
from pathlib import Path

from crucible.testing.cluster.failures import ClusterFailed

logger = logging.getLogger(__name__)

_FLAGS = ("-trimpath", "-gcflags=all=-dwarf=false -l")
_ENVIRON = {"CGO_ENABLED": "0"}
"""Static programs, which run in any image."""


def cache_home() -> Path:
    """``${XDG_CACHE_HOME:-~/.cache}/crucible``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crucible"


def sources_digest(folder: Path, ldflags: str) -> str:
    """Of all that decides what the compiler makes of the files of ``folder``."""
    recipe = [platform.machine(), ldflags, *_FLAGS, *sorted(_ENVIRON.items())]
    digest = hashlib.sha256(repr(recipe).encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"\0{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def build_program(package: str, module_dir: Path, program: Path, *, ldflags: str) -> None:
    """Build ``package`` of the Go module in ``module_dir``; ``program`` is whole or not there.

    Raises:
        ClusterFailed: the build failed; with what the compiler said.
    """
    started = time.monotonic()
    partial = program.with_name(f"{program.name}.partial")
    done = subprocess.run(
        ["go", "build", *_FLAGS, "-ldflags", ldflags, "-o", str(partial), package],
        cwd=module_dir, env={**os.environ, **_ENVIRON}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ClusterFailed(f"building {program.name} failed:\n{done.stderr[-4000:]}")
    partial.rename(program)
    logger.info("built %s in %.0f s", program.name, time.monotonic() - started)
