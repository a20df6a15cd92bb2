"""What surrounds a step, so that a test can call a component's ``run``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from crucible.sdk.checkpoint import FolderCheckpoints
from crucible.sdk.context import Context, ProgressSink, TrackingSink


class StepSink(ProgressSink, TrackingSink, Protocol):
    """Takes all that a step tells: `RecordingSink`, or `crucible.sdk.events.EventWriter`."""


@dataclass
class RecordingSink:
    """Progress and tracking of a step, kept for assertions."""

    progress: list[tuple[float, float | None]] = field(default_factory=list)
    """Done and total of each update."""
    metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """Step and values, as logged."""
    params: dict[str, str | int | float | bool] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def last_metrics(self) -> dict[str, float]:
        """The newest value of each metric."""
        return {name: value for _, values in self.metrics for name, value in values.items()}

    def update(
        self, done: float, total: float | None = None, *, unit: str = "steps", message: str = ""
    ) -> None:
        self.progress.append((done, total))

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        self.metrics.append((step, dict(values)))

    def log_params(self, values: Mapping[str, str | int | float | bool]) -> None:
        self.params.update(values)

    def set_tags(self, values: Mapping[str, str]) -> None:
        self.tags.update(values)


@contextlib.contextmanager
def step_context(folder: Path, *, seed: int = 0, sink: StepSink | None = None) -> Iterator[Context]:
    """The context of one attempt on one cpu; another one in ``folder`` finds its checkpoints.

    Args:
        folder: holds scratch folder and checkpoints.
        seed: of the step.
        sink: takes progress and tracking; None: nobody listens.
    """
    scratch_dir = folder / "scratch"
    scratch_dir.mkdir(parents=True, exist_ok=True)
    sink = sink or RecordingSink()
    with contextlib.closing(FolderCheckpoints(folder / "checkpoints")) as checkpoints:
        yield Context(
            run_id="run",
            step_id="step",
            attempt=1,
            seed=seed,
            fingerprint="sha256:" + "0" * 64,
            scratch_dir=scratch_dir,
            cpus=1.0,
            checkpoint=checkpoints,
            progress=sink,
            tracking=sink,
        )
