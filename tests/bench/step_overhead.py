"""Seconds that a step of a chain of no-op components costs, beside kfp.local's SubprocessRunner.

Ours is the whole way from ``submit`` to the final state with everything that a run does by default:
a process per step, artifacts committed to the store, synced events, logs, the MLflow relay (which
goes on behind the end; the result says how long). The peer is at its fastest: ``use_venv=False``
and components that install nothing. A run of one step is measured, too: what a run costs whatever
its length. Run it on an otherwise idle machine.
"""

import argparse
import contextlib
import io
import logging
import os
import secrets
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from measure import interleaved, print_result

from crucible.engines.local.engine import LocalEngine
from crucible.engines.local.run_dir import is_locked
from crucible.engines.state import RunStatus
from crucible.settings import Settings
from crucible.testing.plans import noop_chain

GOAL = 1.2


def seconds_of_our_chain(engine: LocalEngine, num_steps: int, relayed: list[float]) -> float:
    """Submit to final state; every step is new to the cache.

    ``relayed`` gets the seconds until MLflow has all of it, too.
    """
    began = time.perf_counter()
    run_id = engine.submit(noop_chain(num_steps, salt=secrets.token_hex(8)))
    *_, state = engine.watch(run_id)
    elapsed = time.perf_counter() - began
    assert state.status is RunStatus.SUCCEEDED, state
    assert not any(step.reason for step in state.steps.values()), "a step came from the cache"
    _wait_for_relay(run_id)
    relayed.append(time.perf_counter() - began)
    return elapsed


def _wait_for_relay(run_id: str) -> None:
    """The next measurement must not pay for this run's MLflow."""
    while is_locked(Settings.load().runs_dir / run_id / "lock"):
        time.sleep(0.05)


def kfp_chain(num_steps: int) -> Callable[[], object]:
    """A pipeline of ``num_steps`` components that each take one dataset and write another."""
    from kfp import dsl

    @dsl.component(install_kfp_package=False)
    def noop(  # type: ignore[no-untyped-def]  # kfp reads the annotations of its own types
        source: dsl.Input[dsl.Dataset], target: dsl.Output[dsl.Dataset], salt: str
    ):
        with open(target.path, "w") as stream:
            stream.write(salt)

    @dsl.component(install_kfp_package=False)
    def first(target: dsl.Output[dsl.Dataset], salt: str):  # type: ignore[no-untyped-def]
        with open(target.path, "w") as stream:
            stream.write(salt)

    @dsl.pipeline
    def chain() -> None:
        task = first(salt="0")
        for number in range(1, num_steps):
            task = noop(source=task.outputs["target"], salt=str(number))

    return chain


def seconds_of_kfp_chain(chain: Callable[[], object]) -> float:
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        chain()
    return time.perf_counter() - began


@contextlib.contextmanager
def kfp_local(folder: Path) -> Iterator[None]:
    """kfp.local in its fastest setting, quiet, its steps in this interpreter's environment."""
    from kfp import local

    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder),
        raise_on_error=True,
    )
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # kfp's deprecations are not our subject
    with tempfile.TemporaryDirectory() as folder, kfp_local(Path(folder, "kfp")):
        os.environ["CRUCIBLE_HOME"] = str(Path(folder, ".crucible"))
        engine = LocalEngine(Settings.load())
        long_chain, one_step = kfp_chain(options.steps), kfp_chain(1)
        relayed: list[float] = []
        figures = interleaved(
            {
                "ours, chain": lambda: seconds_of_our_chain(engine, options.steps, relayed),
                "kfp.local, chain": lambda: seconds_of_kfp_chain(long_chain),
                "ours, 1 step": lambda: seconds_of_our_chain(engine, 1, []),
                "kfp.local, 1 step": lambda: seconds_of_kfp_chain(one_step),
            },
            num_rounds=options.rounds,
        )
    per_step = {
        who: [seconds / options.steps for seconds in figures[f"{who}, chain"]]
        for who in ("ours", "kfp.local")
    }
    print_result(
        "step_overhead",
        ours=per_step["ours"],
        peer=per_step["kfp.local"],
        goal=GOAL,
        unit="seconds a step, whole run over its steps",
        until_mlflow_has_the_chain_seconds=round(statistics.median(relayed), 3),
        one_step_run_seconds={
            "ours": round(min(figures["ours, 1 step"]), 3),
            "peer": round(min(figures["kfp.local, 1 step"]), 3),
        },
    )


if __name__ == "__main__":
    main()
