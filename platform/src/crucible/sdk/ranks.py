"""Which of the processes of a distributed step this is, and what the others than the first do.

All ranks read the same inputs and checkpoints. What counts of a step comes from rank 0: outputs,
checkpoints, progress and metrics of the others go nowhere, so that a component that writes them on
every rank is right as well.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from crucible.errors import UserError
from crucible.sdk.context import CheckpointStore


@dataclass(frozen=True)
class Ranks:
    """The place of one process among those of its step."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Ranks:
        """Read ``RANK`` and ``WORLD_SIZE``, as torchrun and its like set them.

        Raises:
            UserError: one is missing or no place among that many.
        """
        texts = {name: environ.get(name, "") for name in ("RANK", "WORLD_SIZE")}
        if all(text.isdigit() for text in texts.values()):
            found = cls(int(texts["RANK"]), int(texts["WORLD_SIZE"]))
            if found.rank < found.world_size:
                return found
        told = ", ".join(f"{name}={text!r}" for name, text in texts.items())
        raise UserError(f"{told}: set RANK from 0 to WORLD_SIZE - 1, and WORLD_SIZE.")


ALONE = Ranks()


class Unheard:
    """Progress and tracking that nobody sees."""

    def update(
        self, done: float, total: float | None = None, *, unit: str = "steps", message: str = ""
    ) -> None:
        """Does nothing."""

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Does nothing."""

    def log_params(self, values: Mapping[str, str | int | float | bool]) -> None:
        """Does nothing."""

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class FollowingCheckpoints:
    """Reads the checkpoints that rank 0 writes."""

    source: CheckpointStore
    scratch_dir: Path

    @contextlib.contextmanager
    def save(self, position: int) -> Iterator[Path]:
        """A folder that is gone when the block ends."""
        folder = Path(tempfile.mkdtemp(prefix="unsaved-", dir=self.scratch_dir))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def workspace(self) -> None:
        """There is none: it is rank 0's."""
        return

    def latest(self) -> tuple[int, Path] | None:
        """The newest that rank 0 has saved."""
        return self.source.latest()
