"""What an engine can do. The verbs of the CLI are these methods and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from crucible.artifacts.store import Store
from crucible.engines.explain import Explanation
from crucible.engines.foreign import CompiledPipeline
from crucible.engines.state import RunState
from crucible.plan.model import Plan


class Engine(Protocol):
    """Runs plans. Methods raise `RunNotFound` for an unknown run id; a unique prefix will do."""

    @property
    def images(self) -> Mapping[str, str] | None:
        """Container image of each set of dependencies; None where steps are processes here."""
        ...

    @property
    def store(self) -> Store:
        """The artifact store that runs write to."""
        ...

    def submit(self, plan: Plan, *, run_id: str | None = None) -> str:
        """Start ``plan`` in the background and return its run id once the run is durable."""
        ...

    def submit_compiled(self, compiled: CompiledPipeline, *, name: str | None = None) -> str:
        """Start a pipeline in KFP's IR and return the id of the run.

        Raises:
            UserError: this engine runs none.
        """
        ...

    def state(self, run_id: str) -> RunState: ...

    def states(self, limit: int | None = None) -> list[RunState]:
        """Runs, newest first; all that there are, or the newest ``limit``."""
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

    def explain(self, run_id: str) -> Explanation:
        """Why the run is where it is: what failed or waits, the cause, what to do."""
        ...

    def cancel(self, run_id: str) -> RunState:
        """End all processes of the run; returns when none is left."""
        ...

    def resume(self, run_id: str, *, from_step: str | None = None) -> str:
        """Continue a failed, cancelled or interrupted run in place; done steps are kept.

        With ``from_step`` that step and all that depend on it run again.
        """
        ...

    def retry(self, run_id: str) -> str:
        """Run the failed steps of an ended run again, and what depends on them."""
        ...
