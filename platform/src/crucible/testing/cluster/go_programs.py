"""Programs built from Go modules into this user's cache, each set under a digest of its sources."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from crucible.testing.cluster.failures import ClusterFailed

logger = logging.getLogger(__name__)


def cache_home() -> Path:
    """``${XDG_CACHE_HOME:-~/.cache}/crucible``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crucible"


def sources_digest(folder: Path, recipe: str) -> str:
    """Of all that decides what the compiler makes: ``recipe`` and the files of ``folder``."""
    digest = hashlib.sha256(recipe.encode())
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"\0{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def build_program(
    package: str,
    module_dir: Path,
    program: Path,
    *,
    ldflags: str,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Build ``package`` of the Go module in ``module_dir``; ``program`` is whole or not there.

    Raises:
        ClusterFailed: the build failed; with what the compiler said.
    """
    started = time.monotonic()
    partial = program.with_name(f"{program.name}.partial")
    done = subprocess.run(
        ["go", "build", "-trimpath", "-ldflags", ldflags, "-o", str(partial), package],
        cwd=module_dir, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ClusterFailed(f"building {program.name} failed:\n{done.stderr[-4000:]}")
    partial.rename(program)
    logger.info("built %s in %.0f s", program.name, time.monotonic() - started)
