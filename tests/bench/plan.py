"""How long a pipeline file of 1,000 steps takes from bytes to plan, beside kfp's compiler.

Ours reads and checks the YAML, types edges, fingerprints every step, asks a cache, renders the
table and serialises the plan, in two shapes: a fan-out of 1,000 items that one step collects, and a
chain of 1,000 written steps. kfp compiles a chain and a fan-out of no-op tasks to IR YAML, which
resolves and types the same edges but fingerprints nothing. Each contender starts from a cold parse;
imports are not counted on either side. Budget for ours: 2 s.
"""

# No `from __future__ import annotations`: kfp's decorators cannot read string annotations.

import argparse
import functools
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measure import interleaved, print_result

from crucible.plan import build, cache_outlook, plan_to_json, render_plan
from crucible.specs import load_pipeline

BUDGET_SECONDS = 2.0
HEAD = "apiVersion: crucible/v1\nkind: Pipeline\nmetadata: {name: bench}\nsteps:\n"
NOOP = "crucible.testing.components:Noop"
EMIT = "crucible.testing.components:Emit"
SUM = "crucible.testing.components:Sum"


def fan_out_file(num_steps: int) -> str:
    items = ", ".join(f"i{index}" for index in range(num_steps))
    return (
        f"{HEAD}  fan: {{uses: '{EMIT}', foreach: [{items}], with: {{text: '${{item}}'}}}}\n"
        f"  all: {{uses: '{SUM}', with: {{metrics: '${{steps.fan.outputs.metrics}}'}}}}\n"
    )


def chain_file(num_steps: int) -> str:
    lines = [f"  s0: {{uses: '{NOOP}'}}\n"]
    for index in range(1, num_steps):
        source = f"${{steps.s{index - 1}.outputs.dataset}}"
        lines.append(f"  s{index}: {{uses: '{NOOP}', with: {{dataset: '{source}'}}}}\n")
    return HEAD + "".join(lines)


def seconds_of_ours(path: Path) -> float:
    began = time.perf_counter()
    plan = build(load_pipeline(path))
    outlook = cache_outlook(plan, lambda fingerprint: None, None)
    render_plan(plan, outlook)
    json.dumps(plan_to_json(plan))
    return time.perf_counter() - began


def kfp_pipelines(num_steps: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A chain and a fan-out with a collector, as functions that build kfp's pipelines."""
    from kfp import dsl

    @dsl.component
    def start() -> str:
        return ""

    @dsl.component
    def follow(text: str) -> str:
        return text

    @dsl.component
    def collect(texts: list) -> str:
        return ""

    def chain() -> Any:
        @dsl.pipeline(name="chain")
        def pipeline() -> None:
            task = start()
            for _ in range(num_steps - 1):
                task = follow(text=task.output)

        return pipeline

    def fan_out() -> Any:
        @dsl.pipeline(name="fan-out")
        def pipeline() -> None:
            collect(texts=[follow(text=f"i{index}").output for index in range(num_steps)])

        return pipeline

    return chain, fan_out


def seconds_of_kfp(make: Callable[[], Any], package_path: str) -> float:
    """Tracing the pipeline function and writing the IR; both are kfp's compile."""
    from kfp import compiler

    began = time.perf_counter()
    compiler.Compiler().compile(make(), package_path)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # kfp's deprecations are not our subject
    logging.disable(logging.WARNING)
    chain, fan_out = kfp_pipelines(options.steps)
    with tempfile.TemporaryDirectory() as folder:
        fan_path, chain_path = Path(folder, "fan.yaml"), Path(folder, "chain.yaml")
        fan_path.write_text(fan_out_file(options.steps))
        chain_path.write_text(chain_file(options.steps))
        package = str(Path(folder, "kfp.yaml"))
        figures = interleaved(
            {
                "ours, fan-out": functools.partial(seconds_of_ours, fan_path),
                "kfp, fan-out": functools.partial(seconds_of_kfp, fan_out, package),
                "ours, chain": functools.partial(seconds_of_ours, chain_path),
                "kfp, chain": functools.partial(seconds_of_kfp, chain, package),
            },
            num_rounds=options.rounds,
        )
    medians = {name: round(statistics.median(values), 4) for name, values in figures.items()}
    print_result(
        "plan",
        ours=figures["ours, fan-out"],
        peer=figures["kfp, fan-out"],
        goal=1.2,
        unit=f"seconds for {options.steps} steps",
        budget_seconds=BUDGET_SECONDS,
        within_budget=max(medians["ours, fan-out"], medians["ours, chain"]) < BUDGET_SECONDS,
        chain={"ours": medians["ours, chain"], "peer": medians["kfp, chain"]},
    )


if __name__ == "__main__":
    main()
