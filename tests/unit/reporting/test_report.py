"""Pages of runs that went well, went wrong, or barely began; and of hostile text."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible.engines.state import Failure, StepStatus
from crucible.errors import UserError
from crucible.sdk.types import Dataset, Report
from crucible.testing.contexts import step_context
from crucible_components.data.folder import FolderBytes
from crucible_components.reporting.component import ReportRun
from crucible_components.reporting.dag import duration
from crucible_components.reporting.run import read_run

Render = Callable[..., str]


class Outline(HTMLParser):
    """Tags, link targets and text by section heading of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.sections: dict[str, str] = {}
        self._heading: str | None = None
        self._title = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "h2":
            self._heading = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "h2":
            self._title, self._heading = self._heading or "", None

    def handle_data(self, data: str) -> None:
        if self._heading is not None:
            self._heading += data
        elif self._title:
            self.sections[self._title] = self.sections.get(self._title, "") + data + "\n"


def test_page_shows_every_part_of_a_run(
    quickstart: Any, predictions: list[Dataset], questions: Dataset, render: Render
) -> None:
    outline = Outline(render(quickstart, predictions, questions))
    assert list(outline.sections) == [
        "Release",
        "Pipeline",
        "Accuracy by category",
        "Before and after",
        "Curves",
        "Samples",
        "Parameters",
        "Lineage",
    ]
    assert "promoted" in outline.sections["Release"]
    assert "+3.0 points" in outline.sections["Release"]
    for step in quickstart.steps:
        assert step.id in outline.sections["Pipeline"]
    assert "⟲ cached" in outline.sections["Pipeline"]
    assert "1 min 50 s" in outline.sections["Pipeline"]
    assert "reinforce: reward" in outline.sections["Curves"]
    assert "vision_to_text" in outline.sections["Curves"]
    assert outline.tags.count("img") == 24
    assert "num_scenes" in outline.sections["Parameters"]
    assert quickstart.states["merge"].outputs["model"] in outline.sections["Lineage"]


def test_page_needs_nothing_from_outside(
    quickstart: Any, predictions: list[Dataset], questions: Dataset, render: Render
) -> None:
    page = render(quickstart, predictions, questions)
    outline = Outline(page)
    assert all(target.startswith(("#", "data:image/png")) for target in outline.targets)
    assert {"script", "link", "iframe", "object"}.isdisjoint(outline.tags)
    assert not re.search(r"url\(|@import", page)


def test_series_are_named_by_the_step_that_wrote_them(
    quickstart: Any, predictions: list[Dataset], render: Render
) -> None:
    foreign = predictions[0]
    foreign.digest = "sha256:unknown"
    section = Outline(render(quickstart, predictions)).sections["Before and after"]
    assert "predictions 1" in section
    assert "evaluate-merged" in section


def test_steps_that_wrote_the_same_keep_their_names(
    quickstart: Any, predictions: list[Dataset], render: Render
) -> None:
    same = [predictions[1], predictions[1]]
    outputs = quickstart.states["evaluate"].outputs
    outputs["predictions"] = quickstart.states["evaluate-merged"].outputs["predictions"]
    section = Outline(render(quickstart, same)).sections["Before and after"]
    assert "evaluate-merged" in section
    assert "\nevaluate\n" in section


def test_changes_are_those_of_the_predictions(
    quickstart: Any, predictions: list[Dataset], questions: Dataset, render: Render
) -> None:
    verdicts = [
        np.array([json.loads(line)["correct"] for line in path.read_text().splitlines()])
        for path in (each.source.folder / "records.jsonl" for each in predictions)
    ]
    section = Outline(render(quickstart, predictions, questions)).sections["Before and after"]
    for before, after in itertools.pairwise(verdicts):
        assert f"{100 * after.mean():.1f} %" in section
        assert f"{100 * (after.mean() - before.mean()):+.1f}" in section
    first_to_last = verdicts[2].mean() - verdicts[0].mean()
    assert f"{100 * first_to_last:+.1f}" in section[section.index("Every pair") :]


def test_run_without_predictions_or_logs_still_has_a_page(
    new_record: Callable[..., Any], render: Render
) -> None:
    run = new_record(pipeline="bare")
    run.step("only", "test-noop")
    assert list(Outline(render(run)).sections) == ["Pipeline", "Parameters", "Lineage"]


def test_failed_run_tells_why_first(
    new_record: Callable[..., Any], render: Render, failure: Failure
) -> None:
    run = new_record()
    run.step("scenes", "synthesize-scenes")
    run.step("align", "train-vlm", ["scenes"], status=StepStatus.FAILED, failure=failure)
    run.step("fuse", "train-vlm", ["align"], status=StepStatus.SKIPPED, when=None)
    page = render(run)
    outline = Outline(page)
    told = outline.sections["What to know"]
    assert next(iter(outline.sections)) == "What to know"
    assert "out-of-memory" in told
    assert "Lower batch_size" in told
    assert "Killed" in told
    assert "✗ failed" in page


def test_refusal_is_shown_with_its_numbers(quickstart: Any, render: Render) -> None:
    decision = quickstart.release["decision"]
    quickstart.release |= {"outcome": "refused", "summary": "version 4 is refused."}
    decision["reasons"] = ["accuracy 0.59 is below 0.6"]
    decision["thresholds"][0] |= {"value": None, "passed": False}
    section = Outline(render(quickstart)).sections["Release"]
    assert "✗ refused" in section
    assert "accuracy 0.59 is below 0.6" in section
    assert "missing" in section
    assert "✗ fails" in section


def test_large_fan_out_is_one_box(new_record: Callable[..., Any], render: Render) -> None:
    run = new_record()
    run.step("scenes", "synthesize-scenes")
    for item in range(12):
        status = StepStatus.FAILED if item == 7 else StepStatus.SUCCEEDED
        run.step(f"train[{item}]", "train-vlm", ["scenes"], name="train", status=status)
    run.step("merge", "merge-models", [f"train[{item}]" for item in range(12)])
    page = render(run)
    assert "<title>train × 12: train-vlm, failed" in page
    assert page.count('rx="9"') == 3


def test_hostile_text_stays_text(
    new_record: Callable[..., Any], questions: Dataset, predictions: list[Dataset], render: Render
) -> None:
    run = new_record(pipeline="<script>alert(1)</script>")
    run.step("a<b>", "x:y", outputs=['"><img src=x>'])
    run.log("a<b>", "loss</title><script>", [1, 2])
    run.release = {"outcome": "<i>", "summary": "<b onclick=x>"}
    path = predictions[0].source.folder / "records.jsonl"
    path.write_text(path.read_text().replace("something else", "<script>2</script>"))
    outline = Outline(render(run, predictions, questions, title="</title><h1>"))
    assert {"script", "i"}.isdisjoint({*outline.tags} - {"i"} if "i" in outline.tags else set())
    assert "script" not in outline.tags
    assert "x" not in outline.targets
    assert outline.tags.count("h1") == 1


def test_record_of_another_schema_is_refused(new_record: Callable[..., Any]) -> None:
    run = new_record()
    run.step("a", "x")
    artifact = run.write()
    path = run.folder / "run.json"
    path.write_text(path.read_text().replace("crucible.run/v1", "crucible.run/v9"))
    with pytest.raises(UserError, match=r"crucible\.run/v9"):
        read_run(artifact)


def test_component_writes_the_page(
    tmp_path: Path, quickstart: Any, predictions: list[Dataset], questions: Dataset
) -> None:
    report = Report("report", FolderBytes(tmp_path / "out"))
    inputs = ReportRun.Inputs(run=quickstart.write(), predictions=predictions, questions=questions)
    config = ReportRun.Config(title="My run", num_samples=3)
    with step_context(tmp_path) as context:
        ReportRun().run(inputs, config, ReportRun.Outputs(report=report), context)
    page = report.local_path("report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<h1>My run</h1>" in page
    assert Outline(page).tags.count("img") == 3
    assert not ReportRun.cacheable


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (119.6, "2 min 00 s"),
        (3599.7, "1 h 00 min"),
        (7805, "2 h 10 min"),
    ],
)
def test_durations_are_read_at_a_glance(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown
