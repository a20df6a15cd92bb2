"""What an engine can do. The verbs of the CLI are these methods and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from crucible.engines.state import RunState
from crucible.plan.model import Plan


class Engine(Protocol):
    """Runs plans. Methods raise `RunNotFound` for an unknown run id; a unique prefix will do."""

    def submit(self, plan: Plan, *, run_id: str | None = None) -> str:
        """Start ``plan`` in the background and return its run id once the run is durable."""
        ...

    def state(self, run_id: str) -> RunState: ...

    def states(self) -> list[RunState]:
        """All runs, newest first."""
        ...

    def plan_of(self, run_id: str) -> Plan: ...

    def last_plan(self, pipeline: str) -> tuple[str, Plan] | None:
        """Run id and plan of the pipeline's newest run, for cache outlook and diff."""
        ...

    def watch(self, run_id: str) -> Iterator[RunState]:
        """A state after each change, at most ten a second, ending with a final one."""
        ...

    def logs(self, run_id: str, step_id: str, *, follow: bool = False) -> Iterator[str]:
        """Lines of the newest attempt's log, without line ends."""
        ...

    def cancel(self, run_id: str) -> RunState:
        """End all processes of the run; returns when none is left."""
        ...

    def resume(self, run_id: str, *, from_step: str | None = None) -> str:
        """Continue a failed, cancelled or interrupted run in place; done steps are kept.

        With ``from_step`` that step and all that depend on it run again.
        """
        ...
