"""The difference of two plans: causes, not consequences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crucible.plan import Plan, diff

MakePlan = Callable[..., Plan]
BODY = (
    "params: {rate: {type: number, default: 0.001}, xs: {type: list, default: [a, b]}}\n"
    "steps:\n"
    "  scenes: {uses: Emit!, with: {values: {rate: '${params.rate}'}}}\n"
    "  train: {uses: Noop!, with: {dataset: '${steps.scenes.outputs.dataset}'}}\n"
    "  fan: {uses: Emit!, foreach: '${params.xs}', with: {text: '${item}'}}\n"
    "  add: {uses: Sum!, with: {metrics: ['${steps.scenes.outputs.metrics}'], "
    "offset: '${steps.scenes.outputs.metrics.rate}'}}\n"
    "release: {model: '${steps.m.outputs.model}', register_as: m, "
    "gate: {metrics: '${steps.add.outputs.metrics}'}}\n"
).replace("  fan:", "  m: {uses: MakeModel!}\n  fan:")


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("", "", []),
        ("uses: Noop!, with", "uses: Noop!, seed: 3, with", ["step train: seed: 0 -> 3"]),
        (
            "uses: MakeModel!}",
            "uses: MakeModel!}\n  n: {uses: Noop!}",
            ["step n: new"],
        ),
        (
            "uses: MakeModel!}",
            "uses: MakeModel!, with: {size_bytes: 9}, resources: {gpus: 1}, timeout_minutes: 5}",
            [
                "step m: config.size_bytes: 8 -> 9",
                "step m: resources.gpus: 0 -> 1",
                "step m: timeout_minutes: None -> 5.0",
            ],
        ),
        (
            "foreach: '${params.xs}', with: {text: '${item}'}",
            "foreach: '${params.xs}', with: {text: '${item}'}, retry: {limit: 5}",
            ["step fan, 2 items: retry.limit: 2 -> 5"],
        ),
        (
            "dataset: '${steps.scenes",
            "dataset: '${steps.other",
            [
                "step train: input dataset: scenes.dataset -> other.dataset",
                "step other: new",
            ],
        ),
        (
            "offset: '${steps.scenes.outputs.metrics.rate}'",
            "offset: 2",
            [
                "step add: config.offset: unset -> 2.0",
                "step add: metric offset: scenes.metrics.rate -> unset",
            ],
        ),
        ("register_as: m", "register_as: n", ["release: changed"]),
    ],
)  # fmt: skip
def test_lines(make_plan: MakePlan, old: str, new: str, lines: list[str]) -> None:
    last = make_plan(BODY)
    body = BODY.replace(old, new, 1) if old else BODY
    if "steps.other" in body:
        body = body.replace("steps:\n", "steps:\n  other: {uses: Emit!}\n")
    assert sorted(diff(make_plan(body), last)) == sorted(lines)


def test_a_parameter_and_what_it_reaches(make_plan: MakePlan) -> None:
    last, plan = make_plan(BODY), make_plan(BODY, {"rate": "0.002", "xs": "a"})
    assert diff(plan, last) == [
        "params.rate: 0.001 -> 0.002",
        'params.xs: ["a", "b"] -> ["a"]',
        "step scenes: config.values.rate: 0.001 -> 0.002",
        "step fan[1]: removed",
    ]


def test_an_import_with_other_content(make_plan: MakePlan, tmp_path: Path) -> None:
    body = "steps: {a: {uses: Noop!, with: {dataset: words.jsonl}}}\n"
    (tmp_path / "words.jsonl").write_text("1")
    last = make_plan(body)
    (tmp_path / "words.jsonl").write_text("2")
    [line] = diff(make_plan(body), last)
    assert line.startswith("step a: input dataset: content of file://")
    assert line.endswith("changed")
