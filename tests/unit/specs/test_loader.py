"""What a sound file becomes, and that every mistake of a bad one is told at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crucible.errors import UserError
from crucible.specs import load_pipeline
from crucible.specs.model import (
    DefaultsSpec,
    GateSpec,
    ReleaseSpec,
    ResourcesSpec,
    RetrySpec,
    StepSpec,
)

ProblemsOf = Callable[..., list[str]]


def test_a_sound_file(examples_dir: Path) -> None:
    spec = load_pipeline(examples_dir / "pipeline.yaml")
    assert spec.metadata.name == "everything"
    assert spec.params == {
        "seed": 7,
        "rate": 0.001,
        "names": ["a", "b", "c"],
        "deep": True,
        "mode": "plain",
    }
    assert spec.defaults.seed == 7
    assert spec.steps["first"].with_["text"] == "plain 7 $${literal}"
    assert spec.steps["fan"].foreach == ["a", "b", "c"]
    assert spec.steps["fan"].with_["text"] == "${item}"
    assert spec.steps["copy"].when[0] == "${params.deep} == true"
    assert spec.steps["late"].when == ["${params.mode} != fancy"]
    assert spec.steps["imported"].retry == RetrySpec(limit=3, backoff_seconds=5)
    assert spec.fanned == {"fan": ["a", "b", "c"]}
    assert spec.text == (examples_dir / "pipeline.yaml").read_text()
    assert spec.release is not None
    assert spec.release.promote_to == "champion"


def test_presets_and_overrides_reach_the_steps(examples_dir: Path) -> None:
    spec = load_pipeline(
        examples_dir / "pipeline.yaml", preset="small", overrides={"mode": "fancy"}
    )
    assert spec.steps["fan"].foreach == ["a"]
    assert spec.steps["first"].with_["values"] == {"accuracy": 0.5}
    assert spec.steps["first"].with_["text"] == "fancy 7 $${literal}"


BAD = """\
params:
  seed: {type: integer, default: x}
defaults: {seed: "${params.sed}", retry: {limt: 1}}
steps:
  first: {uses: "crucible.testing.components:Emi", with: {text: hi}}
  fan:
    uses: crucible.testing.components:Emit
    foreach: [1, 2]
    with: {text: "${item}", valus: 1, values: {n: x}, report_html: "${foo}"}
    resources: {gpu: 1}
    resources: {gpus: 1}
  add:
    uses: crucible.testing.components:Sum
    with: {metrics: "${steps.fan.outputs.metric}", offset: "${steps.first.outputs.metrics.n}"}
  base: {uses: "crucible.testing.components:MakeModel", after: fann, cache: 1}
  a: {uses: "crucible.testing.components:CopyModel", with: {model: "${steps.b.outputs.model}"}}
  b: {uses: "crucible.testing.components:CopyModel", with: {model: "${steps.a.outputs.model}"}}
  c: {uses: "crucible.testing.components:WantVision", with: {model: "${steps.base.outputs.model}"}}
  d: {uses: "crucible.testing.components:WantVision", with: {model: nope}, when: x}
  e:
on_exit: {uses: "crucible.testing.components:Noop", foreach: [1]}
release:
  model: ${steps.add.outputs.metrics}
  gate: {metrics: "${steps.add.outputs.metrics}", thresholds: {acc: {mn: 0.5, min: 2, max: 1}}}
extra: 1
"""
EXPECTED = """\
5:34 params.seed.default: got "x", wants an integer.
6:18 defaults.seed: there is no parameter 'sed'. Did you mean 'seed'? Valid: seed.
6:43 defaults.retry.limt: is not known here. Did you mean 'limit'?
8:17 steps.first.uses: component 'crucible.testing.components:Emi': Emi in
12:18 steps.fan.with.text: got 1. Input should be a valid string (item 0: 1).
12:29 steps.fan.with.valus: is neither an input nor a setting of test-emit. Did you mean 'values'?
12:51 steps.fan.with.values.n: got 'x'. Input should be a valid number
12:68 steps.fan.with.report_html: ${foo} is no reference. Write ${params.NAME}
13:17 steps.fan.resources.gpu: is not known here. Did you mean 'gpus'?
14:5 steps.fan.resources: is there already, in line 13. Remove one.
17:21 steps.add.with.metrics: step fan (test-emit) has no output 'metric'. Did you mean 'metrics'?
18:64 steps.base.after: there is no step 'fann'. Did you mean 'fan'?
18:77 steps.base.cache: got 1: wants true or false.
19:68 steps.a.with.model: steps wait for each other: a -> b -> a (each needs the next).
21:69 steps.c.with.model: wants Model[vision-language], steps.base.outputs.model is Model.
22:69 steps.d.with.model: no file or folder
22:82 steps.d.when: got 'x'. Write '${params.NAME} == VALUE'
23:5 steps.e: got null: wants a mapping.
24:53 on_exit.foreach: is not known here. Valid: cache, image
25:1 release.register_as: is required. Add it.
26:10 release.model: wants Model, steps.add.outputs.metrics is Metrics.
27:69 release.gate.thresholds.acc: min 2 is above max 1. Swap them.
27:70 release.gate.thresholds.acc.mn: is not known here. Did you mean 'min'?
28:1 extra: is not known here. Valid: apiVersion, defaults
"""


def test_every_mistake_is_told_at_once_in_the_order_of_the_file(problems_of: ProblemsOf) -> None:
    found = problems_of(BAD)
    expected = EXPECTED.splitlines()
    assert [line[: len(want)] for line, want in zip(found, expected, strict=False)] == expected
    assert len(found) == len(expected)


def test_the_message_counts_and_names_the_file(write: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"p\.yaml: 1 problem\.") as caught:
        load_pipeline(write("steps: {}\n"))
    assert caught.value.exit_code == 2
    assert "steps: got {}" in str(caught.value.problems[0])


def test_a_missing_head_is_told_with_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("steps: {a: {uses: crucible.testing.components:Noop, wth: 1}}\n")
    with pytest.raises(UserError) as caught:
        load_pipeline(path)
    assert [problem.path for problem in caught.value.problems] == [
        "apiVersion",
        "kind",
        "metadata",
        "steps.a.wth",
    ]


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a" * 64, "a.b"])
def test_names_are_those_that_kubernetes_takes(tmp_path: Path, name: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        f"apiVersion: crucible/v1\nkind: Pipeline\nmetadata: {{name: '{name}'}}\n"
        f"steps: {{'{name}': {{uses: crucible.testing.components:Noop}}}}\n"
    )
    with pytest.raises(UserError) as caught:
        load_pipeline(path)
    assert {problem.path for problem in caught.value.problems} >= {"metadata.name"}
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("uses", ["os.path", "x y", ":", "a:b:c", ".:X", "../x:Y", "a b:C", "1:2"])
def test_uses_is_a_name_or_a_class(problems_of: ProblemsOf, uses: str) -> None:
    [problem] = problems_of(f"steps: {{a: {{uses: '{uses}'}}}}\n")
    assert "steps.a.uses" in problem


def test_defaults_are_pinned() -> None:
    """A changed default changes what existing pipeline files mean: change them on purpose."""
    step = StepSpec.model_validate({"uses": "x"})
    assert step.model_dump(exclude_defaults=True) == {"uses": "x"}
    assert DefaultsSpec() == DefaultsSpec(
        seed=0, retry=RetrySpec(), resources=ResourcesSpec(), cache=True, timeout_minutes=None
    )
    release = ReleaseSpec.model_validate(
        {"model": "m", "register_as": "r", "gate": {"metrics": ""}}
    )
    assert release.promote_to == "champion"
    assert release.gate == GateSpec(metrics="", thresholds={}, max_regression=0, confidence=0.95)
