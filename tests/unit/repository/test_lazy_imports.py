"""Planning and the command line never load the heavy libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
HEAVY = ("torch", "transformers", "kfp", "mlflow", "kubernetes", "numpy", "minio", "pandas")
QUICKSTART = str(REPOSITORY / "pipelines/quickstart/pipeline.yaml")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["validate", QUICKSTART], ["components", "list"], ["schema"]],
    ids=lambda arguments: arguments[0],
)
def test_commands_load_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import json, sys\n"
        "from crucible.cli.main import app\n"
        f"app({arguments!r}, standalone_mode=False)\n"
        f"print('HEAVY', json.dumps([m for m in {HEAVY!r} if m in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    last_line = done.stdout.strip().splitlines()[-1]
    assert json.loads(last_line.removeprefix("HEAVY ")) == []
