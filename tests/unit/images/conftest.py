"""A builder that does nothing but note how it was called, under the name of each real one."""

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

REPOSITORY = Path(__file__).parents[3]
PLATFORMCTL = Path(sys.executable).parent / "platformctl"
DIGEST = f"sha256:{'5e' * 32}"
BUILDERS = ("buildah", "podman", "docker")

PROGRAM = f"""#!{sys.executable} -S
import json, os, sys
arguments = sys.argv[1:]
secrets = dict(pair.split("=", 1) for option in arguments if option.startswith("id=")
               for pair in [option.removeprefix("id=").replace(",src=", "=")])
note = {{
    "program": os.path.basename(sys.argv[0]),
    "arguments": arguments,
    "secrets": {{name: open(path).read() for name, path in secrets.items()}},
}}
with open(os.environ["FAKE_BUILDER_CALLS"], "a") as calls:
    calls.write(json.dumps(note) + "\\n")
verb = arguments[0]
failing = json.loads(os.environ.get("FAKE_BUILDER_FAILS", "{{}}"))
if verb in failing:
    print("step 1 of 2")
    sys.exit(failing[verb] + "\\n")
if verb in ("from", "create"):
    print("working-container")
elif verb == "cp":
    open(arguments[-1], "w").write('{{"bomFormat": "CycloneDX"}}')
elif verb == "run":
    print('{{"bomFormat": "CycloneDX"}}')
elif "--format" in arguments:
    print("a-revision" if "revision" in arguments[arguments.index("--format") + 1] else "an-input")
elif verb == "push" and "--digestfile" in arguments:
    with open(arguments[arguments.index("--digestfile") + 1], "w") as file:
        file.write("{DIGEST}")
elif verb == "push":
    print("1: digest: {DIGEST} size: 1234")
"""


@dataclass(frozen=True)
class Finished:
    """What one call of platformctl left behind."""

    code: int
    out: str
    err: str
    calls: list[dict[str, Any]]
    """Of the builder: program, arguments, and the content of each secret."""

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with the three builders, and git."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in BUILDERS:
        (folder / name).write_text(PROGRAM)
        (folder / name).chmod(0o755)
    git = subprocess.run(["which", "git"], capture_output=True, text=True, check=True)
    (folder / "git").symlink_to(git.stdout.strip())
    return folder


@pytest.fixture
def platformctl(programs: Path, tmp_path: Path) -> Callable[..., Finished]:
    """`platformctl` in the checkout, or in ``cwd``, with the builders of ``programs`` only."""

    def call(*arguments: str, cwd: Path = REPOSITORY, **environ: str) -> Finished:
        notes = tmp_path / "calls.jsonl"
        notes.write_text("")
        home = tmp_path / "user"
        home.mkdir(exist_ok=True)
        done = subprocess.run(
            [PLATFORMCTL, *arguments],
            env={
                "PATH": str(programs),
                "HOME": str(home),
                "PIP_CONFIG_FILE": os.devnull,
                "CRUCIBLE_HOME": str(tmp_path / "home"),
                "FAKE_BUILDER_CALLS": str(notes),
                **environ,
            },
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=60,
        )
        calls = [json.loads(line) for line in notes.read_text().splitlines()]
        return Finished(done.returncode, done.stdout, done.stderr, calls)

    return call
