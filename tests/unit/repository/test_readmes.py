"""Pipelines that the documentation shows are ones that a reader can run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crucible.plan import build
from crucible.specs import load_pipeline

REPOSITORY = Path(__file__).parents[3]
PIPELINES = sorted(
    path for path in REPOSITORY.glob("pipelines/*/*.yaml") if "kind: Pipeline" in path.read_text()
)


def shown_pipelines() -> list[str]:
    blocks = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    return [block for block in blocks if "kind: Pipeline" in block]


def test_the_readme_shows_a_pipeline_that_can_be_planned(tmp_path: Path) -> None:
    (shown,) = shown_pipelines()
    path = tmp_path / "my.yaml"
    path.write_text(shown)
    assert len(build(load_pipeline(path)).steps) == 3


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_pipeline_of_the_repository_can_be_planned(path: Path) -> None:
    assert build(load_pipeline(path)).steps


def test_the_ablation_takes_the_quickstarts_own_steps_from_the_cache() -> None:
    folder = REPOSITORY / "pipelines" / "quickstart"
    quickstart, ablation = (
        {step.id: step.fingerprint for step in build(load_pipeline(folder / name)).steps}
        for name in ("pipeline.yaml", "ablation.yaml")
    )
    for step_id in ("scenes", "align", "fuse"):
        assert ablation[step_id] == quickstart[step_id]
