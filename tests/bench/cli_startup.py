"""How long `platformctl --help` and `validate` take as whole processes, beside `kfp --help`.

Budgets: 0.15 s and 0.3 s.
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measure import interleaved, print_result

BIN = Path(sys.executable).parent
PIPELINE = Path(__file__).parents[2] / "pipelines/quickstart/pipeline.yaml"
HELP_BUDGET_SECONDS = 0.15
VALIDATE_BUDGET_SECONDS = 0.3


def seconds(*command: str | Path) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    contenders = {
        "platformctl --help": functools.partial(seconds, BIN / "platformctl", "--help"),
        "platformctl validate": functools.partial(
            seconds, BIN / "platformctl", "validate", PIPELINE
        ),
        "kfp --help": functools.partial(seconds, BIN / "kfp", "--help"),
    }
    figures = interleaved(contenders, num_rounds=9)
    validate_seconds = statistics.median(figures["platformctl validate"])
    print_result(
        "cli_startup",
        ours=figures["platformctl --help"],
        peer=figures["kfp --help"],
        goal=1.2,
        help_budget_seconds=HELP_BUDGET_SECONDS,
        validate_seconds=round(validate_seconds, 4),
        validate_budget_seconds=VALIDATE_BUDGET_SECONDS,
    )


if __name__ == "__main__":
    main()
