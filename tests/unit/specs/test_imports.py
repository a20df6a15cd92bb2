"""What checking a file loads: nothing heavier than pydantic and YAML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "transformers", "kfp", "kubernetes", "mlflow", "numpy", "PIL", "minio")
PROGRAM = """
import sys
from pathlib import Path
from crucible.specs import load_pipeline
load_pipeline(Path(sys.argv[1]))
print(*(name for name in sys.argv[2:] if name in sys.modules))
"""


def test_validating_loads_no_heavy_library(examples_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(examples_dir / "pipeline.yaml"), *HEAVY],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []


def test_the_program_would_notice() -> None:
    program = PROGRAM.replace("load_pipeline(Path(sys.argv[1]))", "import numpy")
    done = subprocess.run(
        [sys.executable, "-c", program, "", *HEAVY], capture_output=True, text=True, check=True
    )
    assert "numpy" in done.stdout.split()
