"""A home of its own per test, and `platformctl` as a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PLATFORMCTL = Path(sys.executable).parent / "platformctl"

HEADER = "apiVersion: crucible/v1\nkind: Pipeline\nmetadata: {name: NAME}\nsteps:\n"


@dataclass(frozen=True)
class Finished:
    """What one call left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "CRUCIBLE_HOME": str(tmp_path / "home"),
        "CRUCIBLE_TRACKING": "off",
        "COLUMNS": "160",
    }


@pytest.fixture
def platformctl(environment: dict[str, str], tmp_path: Path) -> Callable[..., Finished]:
    def call(*arguments: str | Path) -> Finished:
        done = subprocess.run(
            [PLATFORMCTL, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def pipeline(tmp_path: Path) -> Callable[..., Path]:
    """Writes a pipeline file of the given name and steps, each ``name: uses-and-settings``."""

    def write(name: str, **steps: str) -> Path:
        lines = "".join(f"  {step}: {{{body}}}\n" for step, body in steps.items())
        path = tmp_path / f"{name}.yaml"
        path.write_text(HEADER.replace("NAME", name) + lines)
        return path

    return write
