"""A synthesised run, shared by the tests that read what it wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from crucible.sdk.context import Context
from crucible.sdk.types import ArtifactType, Dataset, Metrics
from crucible_components.data.folder import FolderBytes
from crucible_components.synthesis.component import SynthesizeScenes

CONVERSATIONS = ("alignment", "fusion", "instruction")
QUESTIONS = ("prompts", "evaluation")


class Sink:
    """Takes progress and metrics, and keeps the last of each."""

    def __init__(self) -> None:
        self.done = 0.0
        self.metrics: dict[str, float] = {}

    def update(
        self, done: float, total: float | None = None, *, unit: str = "", message: str = ""
    ) -> None:
        self.done = done

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        self.metrics.update(values)

    def log_params(self, values: Mapping[str, str | int | float | bool]) -> None: ...

    def set_tags(self, values: Mapping[str, str]) -> None: ...


@dataclass
class Synthesised:
    folder: Path
    outputs: SynthesizeScenes.Outputs
    sink: Sink


def synthesise(folder: Path, *, seed: int = 7, **config: object) -> Synthesised:
    artifacts: dict[str, object] = {"metrics": Metrics("metrics", FolderBytes(folder / "metrics"))}
    for names, variant in ((CONVERSATIONS, "conversations"), (QUESTIONS, "questions")):
        for name in names:
            artifacts[name] = Dataset(
                name, FolderBytes(folder / name), ArtifactType("Dataset", variant)
            )
    outputs, sink = SynthesizeScenes.Outputs(**artifacts), Sink()
    context = Context("run", "scenes", 1, seed, "sha256:0", folder, 1.0, None, sink, sink)
    SynthesizeScenes().run(
        SynthesizeScenes.Inputs(), SynthesizeScenes.Config(**config), outputs, context
    )
    return Synthesised(folder, outputs, sink)


@pytest.fixture(scope="session")
def run_synthesis() -> Callable[..., Synthesised]:
    return synthesise


@pytest.fixture(scope="session")
def synthesised(tmp_path_factory: pytest.TempPathFactory) -> Synthesised:
    return synthesise(
        tmp_path_factory.mktemp("scenes"),
        num_scenes=600,
        num_prompt_scenes=150,
        num_evaluation_scenes=250,
        captions_per_scene=2,
    )
