"""The table that ``platformctl plan`` prints."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from crucible.plan import Plan, cache_outlook, render_plan
from crucible.plan.model import CacheOutlook
from crucible.sdk.component import Estimate, Resources

MakePlan = Callable[..., Plan]
BODY = (
    "params: {go: {type: boolean, default: false}, xs: {type: list, default: [a, b, c]}}\n"
    "steps:\n"
    "  fan: {uses: Emit!, foreach: '${params.xs}', with: {text: '${item}'}}\n"
    "  add: {uses: Sum!, with: {metrics: '${steps.fan.outputs.metrics}'}}\n"
    "  off: {uses: Noop!, when: '${params.go} == true'}\n"
    "  late: {uses: Noop!, when: '${steps.add.outputs.metrics.x} >= 0.5'}\n"
    "  m: {uses: MakeModel!}\n"
    "release: {model: '${steps.m.outputs.model}', register_as: best, "
    "gate: {metrics: '${steps.add.outputs.metrics}'}}\n"
)


def test_the_whole_table(make_plan: MakePlan) -> None:
    plan = make_plan(BODY)
    text = render_plan(plan, cache_outlook(plan, lambda _: None, None))
    assert re.sub(r"sha256:\w+", "DIGEST", text) == (
        "p  DIGEST\n"
        'params: go=false, xs=["a", "b", "c"]\n'
        "\n"
        "STEP       USES       INPUTS                     RESOURCES         ESTIMATE  CACHE\n"
        "fan[0..2]  Emit       -                          1 cpu 1 GiB each  -         "
        "0 cached, 3 run: no earlier run\n"
        "add        Sum        metrics=fan[0].metrics +2  1 cpu 1 GiB       -         "
        "run: no earlier run\n"
        "late       Noop       -                          1 cpu 1 GiB       -         "
        "run: no earlier run\n"
        "m          MakeModel  -                          1 cpu 1 GiB       -         "
        "run: no earlier run\n"
        "\n"
        "late: only if steps.add.outputs.metrics.x >= 0.5\n"
        "off: skipped, params.go is false, not == true\n"
        "release: m.model as best, promoted to champion if it passes the gate\n"
        "total: 6 steps, 0 cached, 6 to run"
    )


def test_estimates_resources_and_warnings(make_plan: MakePlan) -> None:
    plan = make_plan("steps: {a: {uses: Noop!}}\n")
    step = dataclasses.replace(
        plan.steps[0],
        estimate=Estimate(3.0, 7200.0),
        resources=Resources(cpus=4, memory_gib=2, gpus=8, nodes=2, pool="gpu-train"),
    )
    plan = dataclasses.replace(plan, steps=(step,))
    text = render_plan(plan, {"a": CacheOutlook(False, "x" * 200)})
    assert "4 cpu 2 GiB 8 gpu x2 nodes gpu-train" in text
    assert "3 GiB, 2 h" in text
    assert "total: 1 steps, 0 cached, 1 to run; 16 CPU-hours, 32 GPU-hours" in text
    assert "warning: step a: needs about 3 GiB" in text
    assert "x" * 100 not in text


def test_a_fan_out_of_many_is_one_line(make_plan: MakePlan) -> None:
    plan = make_plan(BODY, {"xs": ",".join(f"i{n}" for n in range(200))})
    hits = {step.id: CacheOutlook(step.id != "fan[7]", "run r") for step in plan.steps}
    text = render_plan(plan, hits)
    assert "fan[0..199]" in text
    assert "199 cached, 1 run: run r" in text
    assert len(text.splitlines()) < 15


def test_all_cached_says_so(make_plan: MakePlan) -> None:
    plan = make_plan(BODY)
    text = render_plan(plan, {step.id: CacheOutlook(True, "run 3f2a") for step in plan.steps})
    assert text.count("cached: run 3f2a") == 4
    assert "6 cached, 0 to run" in text
