"""Every pipeline of the tree compiles to what KFP takes; the quickstart's IR is there to be read.

``CRUCIBLE_WRITE_GOLDEN=1 pytest tests/pipelines/test_compiled.py`` writes the golden file anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from crucible.engines.kfp.document import compiled, to_yaml
from crucible.plan import build
from crucible.specs import load_pipeline
from crucible.specs.context import load_context

REPOSITORY = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden" / "quickstart.kfp.yaml"
CONTEXT = Path(__file__).parent / "golden" / "context.yaml"
PIPELINES = sorted((REPOSITORY / "pipelines").glob("*/*.yaml"))
_CODE = re.compile(r"sha256:[0-9a-f]{64}")
_IMAGE = re.compile(r"@sha256:[0-9a-f]{64}")


def compile_text(path: Path, preset: str | None = None) -> str:
    context = load_context(CONTEXT)
    images = {str(name): image for name, image in context.images.items()}
    plan = build(load_pipeline(path, preset=preset), images=images)
    return to_yaml(compiled(plan, context))


def without_digests(text: str) -> str:
    """``text`` with what changes with every line of code numbered in order of appearance."""
    numbers: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return numbers.setdefault(match[0], f"sha256:<{len(numbers) + 1}>")

    kept = _IMAGE.sub(lambda match: match[0].replace("sha256:", "image:"), text)
    return _CODE.sub(number, kept).replace("@image:", "@sha256:")


@pytest.mark.parametrize("path", PIPELINES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_pipeline_compiles_and_loads_in_kfp(path: Path, tmp_path: Path) -> None:
    import kfp.components

    file = tmp_path / "compiled.yaml"
    file.write_text(compile_text(path))
    loaded = kfp.components.load_component_from_file(str(file))
    assert loaded.pipeline_spec.root.dag.tasks
    assert loaded.platform_spec.platforms["kubernetes"]


def test_the_ir_of_the_quickstart_is_the_golden_one() -> None:
    path = REPOSITORY / "pipelines" / "quickstart" / "pipeline.yaml"
    text = without_digests(compile_text(path, preset="smallest"))
    text = re.sub(r"sdkVersion: \S+", "sdkVersion: kfp", text)
    if os.environ.get("CRUCIBLE_WRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
