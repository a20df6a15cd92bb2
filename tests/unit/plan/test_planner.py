"""What a pipeline file becomes: steps, edges, order, settings, conditions, release."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest

from crucible.artifacts import tree_digest
from crucible.errors import UserError
from crucible.plan import Plan, build
from crucible.plan.model import (
    Condition,
    Gate,
    Import,
    MetricRef,
    Release,
    Retry,
    SlotInput,
    StepOutput,
    Threshold,
)
from crucible.sdk.component import (
    Component,
    ComponentConfig,
    ComponentInputs,
    ComponentOutputs,
    Estimate,
)
from crucible.sdk.fingerprint import environment_digest
from crucible.sdk.types import ArtifactType, CausalLM, Model, SameVariantAs
from crucible.specs import load_pipeline

MakePlan = Callable[..., Plan]
DIGEST = "sha256:" + "a" * 64


class _Task(Component):
    def run(self, inputs: Any, config: Any, outputs: Any, context: Any) -> None:
        """Never called: planning only reads declarations."""


class Need(_Task):
    name = "need"

    class Config(ComponentConfig):
        needed: int
        other: int = 5


class Text(_Task):
    name = "text"

    class Outputs(ComponentOutputs):
        model: Model[CausalLM]


class Same(_Task):
    name = "same"

    class Inputs(ComponentInputs):
        model: Model

    class Outputs(ComponentOutputs):
        model: Annotated[Model, SameVariantAs("model")]


class Sized(_Task):
    name = "sized"

    class Config(ComponentConfig):
        size: int = 1

    @classmethod
    def estimate(cls, config: Any) -> Estimate:
        return Estimate(memory_gib=2.0 * config.size, seconds=60.0 / config.size)


def test_parameters_items_and_literals_reach_the_settings(make_plan: MakePlan) -> None:
    plan = make_plan(
        "params: {n: {type: integer, default: 3}, xs: {type: list, default: [a, 7]}}\n"
        "steps: {e: {uses: Emit!, foreach: '${params.xs}', "
        "with: {text: 'n=${params.n} ${item} $${item}', values: {n: '${params.n}'}}}}\n"
    )
    assert [step.id for step in plan.steps] == ["e[0]", "e[1]"]
    assert [step.name for step in plan.steps] == ["e", "e"]
    assert plan.steps[0].config == {
        "text": "n=3 a ${item}",
        "values": {"n": 3},
        "report_html": None,
    }
    assert plan.steps[1].config["text"] == "n=3 7 ${item}"
    assert plan.params == {"n": 3, "xs": ["a", 7]}


def test_defaults_of_the_component_are_filled_in(make_plan: MakePlan) -> None:
    [step] = make_plan("steps: {m: {uses: MakeModel!}}\n").steps
    assert step.config == {"variant": "causal-lm", "size_bytes": 8}
    assert step.component == "crucible.testing.components:MakeModel"
    assert step.optional_outputs == ()


def test_edges_of_fans_are_all_items_in_order(make_plan: MakePlan) -> None:
    plan = make_plan(
        "steps:\n"
        "  all: {uses: Sum!, with: {metrics: ['${steps.one.outputs.metrics}', "
        "'${steps.fan.outputs.metrics}']}}\n"
        "  fan: {uses: Emit!, foreach: [1, 2], with: {values: {n: '${item}'}}}\n"
        "  one: {uses: Emit!}\n"
    )
    step = plan.step("all")
    sources = [StepOutput(step_id, "metrics") for step_id in ("one", "fan[0]", "fan[1]")]
    assert step.inputs == (
        SlotInput("metrics", ArtifactType("Metrics"), tuple(sources), many=True),
    )
    assert step.after == ("one", "fan[0]", "fan[1]")
    assert [step.id for step in plan.steps] == ["fan[0]", "fan[1]", "one", "all"]


def test_steps_with_the_same_items_are_paired(make_plan: MakePlan) -> None:
    plan = make_plan(
        "params: {xs: {type: list, default: [1, 2]}}\n"
        "steps:\n"
        "  numbers: {uses: Emit!, foreach: '${params.xs}', with: {values: {n: '${item}'}}}\n"
        "  models: {uses: MakeModel!, foreach: [1, 2], "
        "with: {size_bytes: '${steps.numbers.outputs.metrics.n}'}}\n"
        "  copies: {uses: CopyModel!, foreach: [1, 2], "
        "with: {model: '${steps.models.outputs.model}'}}\n"
    )
    for index in range(2):
        made, copy = plan.step(f"models[{index}]"), plan.step(f"copies[{index}]")
        assert made.metric_refs == {"size_bytes": MetricRef(f"numbers[{index}]", "metrics", "n")}
        assert made.after == (f"numbers[{index}]",)
        assert copy.inputs[0].sources == (StepOutput(f"models[{index}]", "model"),)
        assert copy.after == (f"models[{index}]",)


def test_every_step_stands_after_what_it_waits_for(examples_plan: Plan) -> None:
    seen: set[str] = set()
    for step in examples_plan.steps:
        assert set(step.after) <= seen
        seen.add(step.id)


@pytest.fixture(scope="module")
def examples_plan() -> Plan:
    examples_dir = Path(__file__).parents[1] / "specs" / "examples"
    return build(load_pipeline(examples_dir / "pipeline.yaml"))


def test_seeds_retries_resources_and_limits(examples_plan: Plan) -> None:
    late, add, imported = (examples_plan.step(name) for name in ("late", "add", "imported"))
    assert (late.seed, add.seed) == (11, 7)
    assert (add.resources.cpus, add.resources.memory_gib) == (1, 2)
    assert (late.resources.cpus, late.resources.memory_gib) == (1, 0.5)
    assert imported.retry == Retry(limit=3, backoff_seconds=5)
    assert add.retry == Retry(limit=1, backoff_seconds=5)
    assert (imported.timeout_minutes, late.timeout_minutes) == (10, None)
    assert [step.cache_enabled for step in examples_plan.steps if step.name == "fan"] == [False] * 3
    assert late.cache_enabled
    assert late.environment == environment_digest()
    assert late.image == ""


def test_after_waits_for_all_items(examples_plan: Plan) -> None:
    assert examples_plan.step("late").after == ("fan[0]", "fan[1]", "fan[2]", "imported")
    assert examples_plan.step("late").inputs == ()


def test_conditions_on_metrics_stay(examples_plan: Plan) -> None:
    copy = examples_plan.step("copy")
    assert copy.when == (Condition(MetricRef("add", "metrics", "n"), ">=", 3.0),)
    assert copy.after == ("base", "add")


def test_metrics_in_settings_are_left_to_the_engine(examples_plan: Plan) -> None:
    add = examples_plan.step("add")
    assert add.metric_refs == {"offset": MetricRef("first", "metrics", "accuracy")}
    assert "offset" not in add.config
    assert "first" in add.after


def test_nested_and_required_settings_may_be_metrics(
    make_plan: MakePlan, importable: Callable[..., str]
) -> None:
    uses = importable(Need)
    plan = make_plan(
        "steps:\n  a: {uses: Emit!}\n"
        "  b: {uses: Emit!, with: {values: {x: 1, y: '${steps.a.outputs.metrics.y/z}'}}}\n"
        f"  c: {{uses: '{uses}', with: {{needed: '${{steps.a.outputs.metrics.n}}'}}}}\n"
    )
    assert plan.step("b").metric_refs == {"values.y": MetricRef("a", "metrics", "y/z")}
    assert plan.step("b").config["values"] == {"x": 1}
    assert plan.step("c").metric_refs == {"needed": MetricRef("a", "metrics", "n")}
    assert "needed" not in plan.step("c").config


def test_a_condition_on_a_parameter_is_decided_at_once(make_plan: MakePlan) -> None:
    body = (
        "params: {deep: {type: boolean, default: false}}\n"
        "steps:\n"
        "  a: {uses: MakeModel!, when: '${params.deep} == true'}\n"
        "  b: {uses: CopyModel!, with: {model: '${steps.a.outputs.model}'}}\n"
        "  c: {uses: Noop!, after: b}\n"
        "  d: {uses: Noop!}\n"
        "on_exit: {uses: Noop!}\n"
        "release: {model: '${steps.b.outputs.model}', register_as: m, "
        "gate: {metrics: '${steps.e.outputs.metrics}'}}\n"
    ).replace("  d:", "  e: {uses: Emit!}\n  d:")
    plan = make_plan(body)
    assert [step.id for step in plan.steps] == ["e", "d"]
    assert plan.skipped == {
        "a": "params.deep is false, not == true",
        "b": "needs a, which is skipped",
        "c": "needs b, which is skipped",
    }
    assert (plan.release, plan.release_skipped) == (None, "needs b, which is skipped")
    full = make_plan(body, {"deep": "true"})
    assert not full.skipped
    assert [step.id for step in full.steps] == ["a", "b", "c", "e", "d"]
    assert full.release is not None


def test_the_exit_step_goes_without_what_is_skipped(make_plan: MakePlan) -> None:
    plan = make_plan(
        "params: {go: {type: boolean, default: false}}\n"
        "steps: {a: {uses: Noop!, when: '${params.go} == true'}, b: {uses: Noop!}}\n"
        "on_exit: {uses: Noop!, with: {dataset: '${steps.a.outputs.dataset}'}}\n"
    )
    assert plan.on_exit is not None
    assert (plan.on_exit.id, plan.on_exit.inputs, plan.on_exit.after) == ("on_exit", (), ())


def test_an_output_takes_the_variant_of_the_input(
    make_plan: MakePlan, importable: Callable[..., str]
) -> None:
    text, same = importable(Text), importable(Same)
    plan = make_plan(
        f"steps:\n  t: {{uses: '{text}'}}\n"
        f"  s: {{uses: '{same}', with: {{model: '${{steps.t.outputs.model}}'}}}}\n"
        f"  o: {{uses: '{same}', with: {{model: artifact:{DIGEST}}}}}\n"
    )
    assert plan.step("s").outputs == {"model": ArtifactType("Model", "causal-lm")}
    assert plan.step("o").outputs == {"model": ArtifactType("Model", "any")}


def test_imports_carry_the_identity_of_their_content(make_plan: MakePlan, tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "records.jsonl").write_text("{}\n")
    body = (
        "steps:\n"
        "  a: {uses: Noop!, with: {dataset: words}}\n"
        f"  b: {{uses: CopyModel!, with: {{model: artifact:{DIGEST}}}}}\n"
        "  c: {uses: CopyModel!, with: {model: 'models:/base@champion'}}\n"
    )
    plan = make_plan(body, resolve_model=lambda uri: f"digest of {uri}")
    sources = [step.inputs[0].sources[0] for step in plan.steps]
    folder = tmp_path / "words"
    assert sources == [
        Import(folder.as_uri(), tree_digest(folder)),
        Import(f"artifact:{DIGEST}", DIGEST),
        Import("models:/base@champion", "digest of models:/base@champion"),
    ]
    with pytest.raises(UserError, match="no model registry"):
        make_plan(body)


def test_a_path_that_vanished_after_checking_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    path = tmp_path / "p.yaml"
    path.write_text(
        "apiVersion: crucible/v1\nkind: Pipeline\nmetadata: {name: p}\n"
        "steps: {a: {uses: 'crucible.testing.components:Noop', with: {dataset: words}}}\n"
    )
    spec = load_pipeline(path)
    with pytest.raises(UserError, match="holds no file"):
        build(spec)


def test_the_release(make_plan: MakePlan) -> None:
    plan = make_plan(
        "steps: {m: {uses: MakeModel!}, e: {uses: Emit!}}\n"
        "release:\n"
        "  model: ${steps.m.outputs.model}\n"
        "  register_as: best\n"
        "  promote_to: staging\n"
        "  gate: {metrics: '${steps.e.outputs.metrics}', max_regression: 0.02,\n"
        "    thresholds: {acc: {min: 0.5}, loss: {max: 2}}}\n"
    )
    assert plan.release == Release(
        model=StepOutput("m", "model"),
        register_as="best",
        promote_to="staging",
        gate=Gate(
            metrics=StepOutput("e", "metrics"),
            thresholds=(Threshold("acc", min=0.5), Threshold("loss", max=2)),
            max_regression=0.02,
        ),
    )


def test_a_step_runs_in_the_image_of_its_component_and_its_digest_counts(
    make_plan: MakePlan,
) -> None:
    body = "steps: {a: {uses: Noop!}, b: {uses: Noop!, image: 'img@sha256:b'}}\n"
    plan = make_plan(body, images={"base": "reg/img@sha256:a", "train": "img@sha256:c"})
    assert [(step.image, step.environment) for step in plan.steps] == [
        ("reg/img@sha256:a", "sha256:a"),
        ("img@sha256:b", "sha256:b"),
    ]
    elsewhere = make_plan(body, images={"base": "mirror/img@sha256:a"})
    assert elsewhere.steps[0].fingerprint == plan.steps[0].fingerprint


def test_a_step_without_an_image_is_refused_with_what_there_is(make_plan: MakePlan) -> None:
    with pytest.raises(UserError, match=r"steps\.a: .* image 'base', .* It has: train"):
        make_plan("steps: {a: {uses: Noop!}}\n", images={"train": "img@sha256:c"})


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Gives a class of this file a module of its own, with a source for the code digest."""
    import types

    def importable(cls: type[Component]) -> str:
        name = f"planner_test_{cls.__name__.lower()}"
        module = types.ModuleType(name)
        module.__file__ = str(tmp_path / f"{name}.py")
        Path(module.__file__).write_text(f"# {cls.__name__}\n")
        setattr(module, cls.__name__, cls)
        monkeypatch.setattr(cls, "__module__", name)
        monkeypatch.setitem(sys.modules, name, module)
        return f"{name}:{cls.__name__}"

    return importable


def test_estimates_follow_the_settings(make_plan: MakePlan, importable: Callable[..., str]) -> None:
    uses = importable(Sized)
    plan = make_plan(
        f"steps: {{a: {{uses: '{uses}', foreach: [1, 3], with: {{size: '${{item}}'}}}}}}\n"
    )
    assert [step.estimate for step in plan.steps] == [Estimate(2.0, 60.0), Estimate(6.0, 20.0)]
    with pytest.raises(UserError, match="estimate of sized fails: ZeroDivisionError"):
        make_plan(f"steps: {{a: {{uses: '{uses}', with: {{size: 0}}}}}}\n")


PROGRAM = """
import sys
from pathlib import Path
from crucible.plan import build, plan_digest, render_plan
from crucible.specs import load_pipeline
plan = build(load_pipeline(Path(sys.argv[1])))
render_plan(plan, {})
print(plan_digest(plan), *(name for name in sys.argv[2:] if name in sys.modules))
"""


def test_planning_is_pure_and_loads_no_heavy_library(examples_plan: Plan) -> None:
    """Two other processes, with other hash seeds, come to the same plan."""
    heavy = ("torch", "transformers", "kfp", "mlflow", "numpy", "minio")
    digests = []
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, examples_plan.spec_path, *heavy],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hash_seed},
        )
        digest, *loaded = done.stdout.split()
        assert loaded == []
        digests.append(digest)
    assert digests == [examples_plan.digest] * 2


def test_several_nodes_are_for_components_that_share_their_work(make_plan: MakePlan) -> None:
    body = """
steps:
  alone: {uses: Noop!, resources: {nodes: 2}}
  fanned: {uses: Noop!, foreach: [1, 2], resources: {nodes: 3}}
  shared: {uses: "crucible.testing.distributed:CountTogether", resources: {nodes: 2}}
"""
    with pytest.raises(UserError) as caught:
        make_plan(body)
    assert [str(problem) for problem in caught.value.problems] == [
        f"steps.{name}.resources.nodes: got {nodes}; test-noop runs on one node. Set 1, or leave "
        "it out. A component whose run() shares its work declares `distributed = True`."
        for name, nodes in (("alone", 2), ("fanned", 3))
    ]
