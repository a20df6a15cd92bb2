"""kill -9 at random points: a resumed run ends with the digests of an undisturbed one.

A kill hits the supervisor, its step server, a running step, or all of them at once. Nothing may
survive the engine's death, and nothing that the event log acknowledged may run again.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crucible.engines.local.engine import LocalEngine
from crucible.engines.state import RunState, RunStatus
from crucible.plan.model import Condition, MetricRef, Plan, StepOutput
from crucible.sdk import kernel
from crucible.sdk.component import Resources
from crucible.settings import Settings
from crucible.testing.plans import make_plan, make_step

NUM_RUNS = 8
KILLS_PER_RUN = 4
LONGEST_DELAY_SECONDS = 0.9
"""About as long as an undisturbed run takes, so that kills hit every phase of it."""

Targets = dict[str, list[int]]


def small_plan() -> Plan:
    """Two branches that count with checkpoints, their sum behind a condition, an exit step."""
    small = Resources(cpus=0.5, memory_gib=0.1)
    counting = {"until": 12, "checkpoint_every": 2, "pause_seconds": 0.02}
    first = make_step("first", "Noop", resources=small)
    branches = [
        make_step(
            f"count[{number}]",
            "Count",
            {"dataset": StepOutput("first", "dataset")},
            config={**counting, "until": 12 + number},
            resources=small,
        )
        for number in range(2)
    ]
    measure = make_step(
        "measure", "Emit", config={"values": {"accuracy": 0.75}}, after=("count[0]",)
    )
    last = make_step(
        "last",
        "Noop",
        {"dataset": StepOutput("count[1]", "dataset")},
        after=("measure",),
        when=(Condition(MetricRef("measure", "metrics", "accuracy"), ">", 0.5),),
        resources=small,
    )
    return make_plan(first, *branches, measure, last, on_exit=make_step("on_exit", "Noop"))


@pytest.fixture(autouse=True, scope="module")
def _without_tracking() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRUCIBLE_TRACKING", "off")
        yield


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LocalEngine]:
    """An engine with a home and a store of its own: it finds nobody else's cache."""
    engine = LocalEngine(Settings.load({"CRUCIBLE_HOME": str(tmp_path)}))
    yield engine
    for state in engine.states():
        if not state.status.is_final:
            engine.cancel(state.run_id)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Digests of an undisturbed run."""
    home_dir = tmp_path_factory.mktemp("undisturbed")
    engine = LocalEngine(Settings.load({"CRUCIBLE_HOME": str(home_dir)}))
    state = end_of(engine, engine.submit(small_plan()))
    assert state.status is RunStatus.SUCCEEDED
    return digests(state)


def digests(state: RunState) -> dict[str, dict[str, str]]:
    return {step.step_id: step.outputs for step in state.steps.values()}


def end_of(engine: LocalEngine, run_id: str) -> RunState:
    *_, state = engine.watch(run_id)
    return state


def targets_of(home_dir: Path, run_id: str) -> Targets:
    """Process ids of the run by role, as they are now."""
    text = (home_dir / "runs" / run_id / "lock").read_text().strip()
    supervisor = [int(text)] if text else []
    table = kernel.process_table()
    servers = [p.pid for p in table if p.parent_pid in supervisor]
    steps = [p.pid for p in table if p.parent_pid in servers]
    return {"supervisor": supervisor, "server": servers, "step": steps}


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def all_gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        alive = {p.pid for p in kernel.process_table()}
        zombies = {pid for pid in pids if pid in alive and is_zombie(pid)}
        if not alive.intersection(pids) - zombies:
            return True
        time.sleep(0.01)
    return False


def is_zombie(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def strike(rng: random.Random, home_dir: Path, run_id: str) -> str:
    """Wait, then kill one part of the run or all of it; returns what was hit, if anything."""
    time.sleep(rng.uniform(0, LONGEST_DELAY_SECONDS))
    targets = targets_of(home_dir, run_id)
    everything = [pid for pids in targets.values() for pid in pids]
    role = rng.choice(["supervisor", "server", "step", "all"])
    if role == "all":
        kill(everything)
    elif targets[role]:
        kill([rng.choice(targets[role])])
    else:
        return ""
    if role != "step":
        assert all_gone(everything), f"processes survived the death of the {role}"
    return role


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(NUM_RUNS))
def test_a_killed_and_resumed_run_ends_like_an_undisturbed_one(
    engine: LocalEngine, expected: dict[str, dict[str, str]], tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    run_id = engine.submit(small_plan())
    struck: list[str] = []
    for _ in range(20 * KILLS_PER_RUN):
        role = strike(rng, tmp_path, run_id)
        struck += [role] if role else []
        before = end_of(engine, run_id)
        if len(struck) == KILLS_PER_RUN:
            break
        before = check_then_resume(engine, before, rng)
    assert len(struck) == KILLS_PER_RUN
    if before.status is not RunStatus.SUCCEEDED:
        check_then_resume(engine, before, rng)
    state = end_of(engine, run_id)
    assert state.status is RunStatus.SUCCEEDED, (struck, state)
    assert digests(state) == expected


def check_then_resume(engine: LocalEngine, before: RunState, rng: random.Random) -> RunState:
    """Resume the run, from a random step if it had ended well; done steps must stay as they are."""
    run_id = before.run_id
    if before.status is RunStatus.SUCCEEDED:
        engine.resume(run_id, from_step=rng.choice(["first", "measure"]))
        return before
    assert before.status in (RunStatus.INTERRUPTED, RunStatus.FAILED), before
    engine.resume(run_id)
    after = engine.state(run_id)
    for step in before.steps.values():
        if step.status.has_outputs and step.step_id != "on_exit":
            kept = after.steps[step.step_id]
            assert (kept.outputs, kept.attempt) == (step.outputs, step.attempt)
    return after
