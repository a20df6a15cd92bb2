"""How long 1,000 steps take from pipeline file to KFP's IR, beside kfp's compiler.

Ours reads and checks the YAML, plans, compiles and writes both documents: a fan-out of 1,000 items
with a step that collects them becomes a few loops. kfp compiles a fan-out of 1,000 no-op tasks with
a collector from Python. The size of the IR and of its largest task are printed, since KFP's driver
gets a task as one argument (128 KiB). Budget for ours: 2 s.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path

from measure import interleaved, print_result
from plan import BUDGET_SECONDS, fan_out_file, kfp_pipelines, seconds_of_kfp

from crucible.engines.kfp.document import compiled, to_yaml
from crucible.engines.kfp.ir import Document
from crucible.plan import build
from crucible.specs import load_pipeline
from crucible.specs.context import ContextDocument

IMAGE = f"registry.example/base@sha256:{'0' * 64}"
ARGUMENT_BYTES = 128 * 1024


def context() -> ContextDocument:
    return ContextDocument.model_validate(
        {
            "apiVersion": "crucible/v1",
            "kind": "Context",
            "metadata": {"name": "bench"},
            "store": {"uri": "s3://crucible/store"},
            "images": {"base": IMAGE},
        }
    )


def document_of(path: Path) -> Document:
    return compiled(build(load_pipeline(path), images={"base": IMAGE}), context())


def seconds_of_ours(path: Path) -> float:
    began = time.perf_counter()
    to_yaml(document_of(path))
    return time.perf_counter() - began


def sizes(path: Path) -> dict[str, int]:
    """Bytes of the IR and of its largest task."""
    document = document_of(path)
    tasks = document.root.tasks.values()
    largest = max(len(json.dumps(task)) for task in tasks)
    return {"ir_bytes": len(to_yaml(document)), "largest_task_bytes": largest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # kfp's deprecations are not our subject
    logging.disable(logging.WARNING)
    _, fan_out = kfp_pipelines(options.steps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fan.yaml")
        path.write_text(fan_out_file(options.steps))
        figures = interleaved(
            {
                "ours": functools.partial(seconds_of_ours, path),
                "kfp": functools.partial(seconds_of_kfp, fan_out, str(Path(folder, "kfp.yaml"))),
            },
            num_rounds=options.rounds,
        )
        size = sizes(path)
    print_result(
        "compile",
        ours=figures["ours"],
        peer=figures["kfp"],
        goal=1.2,
        unit=f"seconds for {options.steps} steps",
        budget_seconds=BUDGET_SECONDS,
        within_budget=statistics.median(figures["ours"]) < BUDGET_SECONDS,
        size=size,
        fits_one_argument=size["largest_task_bytes"] < ARGUMENT_BYTES,
    )


if __name__ == "__main__":
    main()
