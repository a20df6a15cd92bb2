"""A pipeline file after checking: what planning starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from crucible.specs.model import DefaultsSpec, MetadataSpec, ReleaseSpec, StepSpec, TaskSpec

EXIT = "on_exit"
"""Path of the exit step in the file and its id in plans; no step can have this name."""


@dataclass(frozen=True)
class PipelineSpec:
    """One sound pipeline with a value for each parameter. Made by `load_pipeline` only.

    References to parameters are replaced everywhere but in ``when``; those to items and to outputs
    of steps still stand.
    """

    path: Path
    text: str
    """The file as read, for the run's record."""
    params: dict[str, Any]
    metadata: MetadataSpec
    defaults: DefaultsSpec
    steps: dict[str, StepSpec]
    on_exit: TaskSpec | None
    release: ReleaseSpec | None

    @property
    def dir(self) -> Path:
        """Folder that relative paths in the file start from."""
        return self.path.parent

    @cached_property
    def fanned(self) -> Mapping[str, Sequence[Any]]:
        """Steps that have a ``foreach``, and its items."""
        steps = self.steps.items()
        return {name: step.foreach for name, step in steps if step.foreach is not None}
