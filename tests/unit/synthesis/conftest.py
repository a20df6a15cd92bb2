"""A synthesised run, shared by the tests that read what it wrote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from crucible.sdk.types import ArtifactType, Dataset, Metrics
from crucible.testing.contexts import RecordingSink, step_context
from crucible_components.data.folder import FolderBytes
from crucible_components.synthesis.component import SynthesizeScenes

CONVERSATIONS = ("alignment", "fusion", "instruction")
QUESTIONS = ("prompts", "evaluation")


@dataclass
class Synthesised:
    folder: Path
    outputs: SynthesizeScenes.Outputs
    sink: RecordingSink


def synthesise(folder: Path, *, seed: int = 7, **config: object) -> Synthesised:
    artifacts: dict[str, object] = {"metrics": Metrics("metrics", FolderBytes(folder / "metrics"))}
    for names, variant in ((CONVERSATIONS, "conversations"), (QUESTIONS, "questions")):
        for name in names:
            artifacts[name] = Dataset(
                name, FolderBytes(folder / name), ArtifactType("Dataset", variant)
            )
    outputs, sink = SynthesizeScenes.Outputs(**artifacts), RecordingSink()
    with step_context(folder, seed=seed, sink=sink) as context:
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
