"""What a running step gets besides its inputs: ids, seed, scratch, checkpoints, sinks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class CheckpointStore(Protocol):
    """Atomic, verified checkpoints of this step; they survive kill -9 and are found on retry."""

    def save(self, position: int) -> AbstractContextManager[Path]:
        """A folder to write checkpoint ``position`` into; it becomes visible when the block ends.

        Older checkpoints are removed once the new one is durable.
        """
        ...

    def latest(self) -> tuple[int, Path] | None:
        """Position and folder of the newest checkpoint whose digests hold, or None."""
        ...

    def workspace(self) -> Path | None:
        """A folder that outlives this process, for work that is its own checkpoint.

        Files in it are as an earlier try left them: whoever reads them checks them. None where
        nothing but the artifact store outlives the process.
        """
        ...


class ProgressSink(Protocol):
    """How far the step is; shown by ``watch``. Calls are cheap: at most two events a second."""

    def update(
        self, done: float, total: float | None = None, *, unit: str = "steps", message: str = ""
    ) -> None: ...


class TrackingSink(Protocol):
    """The step's MLflow run. Values go to the step's event file; MLflow is not imported here."""

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None: ...

    def log_params(self, values: Mapping[str, str | int | float | bool]) -> None: ...

    def set_tags(self, values: Mapping[str, str]) -> None: ...


@dataclass(frozen=True)
class Context:
    """Handed to ``Component.run``."""

    run_id: str
    step_id: str
    attempt: int
    """1 on the first try."""
    seed: int
    fingerprint: str
    scratch_dir: Path
    """Empty at the start, removed at the end."""
    cpus: float
    """What the step may use; thread pools are already set to it."""
    checkpoint: CheckpointStore
    progress: ProgressSink
    tracking: TrackingSink
    rank: int = 0
    """Which of the processes this is that run the step together, see `Component.distributed`."""
    world_size: int = 1
    """How many they are."""

    @property
    def is_main(self) -> bool:
        """Whether outputs, checkpoints, progress and metrics of this process count."""
        return self.rank == 0

    def seed_for(self, purpose: str) -> int:
        """An independent 63-bit seed for one purpose, the same on every run and rank."""
        digest = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1
