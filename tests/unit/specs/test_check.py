"""Components, slots, settings, conditions: one file with one mistake gives that one problem."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field, field_validator

from crucible.sdk.component import Component, ComponentConfig, ComponentInputs, ComponentOutputs
from crucible.sdk.types import (
    CausalLM,
    Dataset,
    Metrics,
    Model,
    Predictions,
    Report,
    RunRecord,
    SameVariantAs,
    VisionLanguage,
)
from crucible.specs import load_pipeline

ProblemsOf = Callable[..., list[str]]


class _Task(Component):
    def run(self, inputs: Any, config: Any, outputs: Any, context: Any) -> None:
        """Never called: these tests only read declarations."""


class Teach(_Task):
    """Make a vision-language model."""

    name = "teach"

    class Inputs(ComponentInputs):
        init: Model[VisionLanguage] | None
        data: list[Dataset] | None

    class Config(ComponentConfig):
        rate: Annotated[float, Field(gt=0)] = 0.1
        steps: int
        words: tuple[str, ...] = ()
        nested: dict[str, float] = Field(default_factory=dict)

        @field_validator("words")
        @classmethod
        def _fail_in_an_odd_way(cls, words: tuple[str, ...]) -> tuple[str, ...]:
            if words == ("boom",):
                raise ZeroDivisionError("boom")
            return words

    class Outputs(ComponentOutputs):
        model: Model[VisionLanguage]
        metrics: Metrics
        text_model: Model[CausalLM]


class Mix(_Task):
    """Mix models of one kind."""

    name = "mix"

    class Inputs(ComponentInputs):
        models: list[Model]

    class Outputs(ComponentOutputs):
        model: Annotated[Model, SameVariantAs("models")]
        predictions: Dataset[Predictions]


class Write(_Task):
    """Report on the run."""

    name = "write"

    class Inputs(ComponentInputs):
        run: RunRecord
        metrics: list[Metrics] | None

    class Config(ComponentConfig):
        score: float = 0.0

    class Outputs(ComponentOutputs):
        report: Report


HERE = "crucible_test_components"
GOOD = """
  t: {uses: TEACH, with: {steps: 3}}
  fan: {uses: TEACH, foreach: [1, 2], with: {steps: "${item}"}}
"""
WORDS = {
    "TEACH": f"'{HERE}:Teach'",
    "MIX": f"'{HERE}:Mix'",
    "WRITE": f"'{HERE}:Write'",
    "DIGEST": f"sha256:{'0' * 64}",
    "LONG": "x" * 5000,
}


def spell(text: str) -> str:
    """``text`` with the words above spelt out; GOOD takes three lines after the head."""
    for word, meaning in WORDS.items():
        text = text.replace(word, meaning)
    return text


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes above under a module name that `uses` can have."""
    import sys
    import types

    module = types.ModuleType(HERE)
    for cls in (Teach, Mix, Write):
        setattr(module, cls.__name__, cls)
    monkeypatch.setitem(sys.modules, HERE, module)


@pytest.mark.parametrize(
    "steps",
    [
        'm: {uses: MIX, with: {models: "${steps.fan.outputs.model}"}}',
        'm: {uses: MIX, with: {models: ["${steps.fan.outputs.model}", "models:/a@b"]}}',
        "m: {uses: MIX, with: {models: [artifact:DIGEST, p.yaml]}}",
        "m: {uses: TEACH, with: {steps: 1, init: null, data: null}}",
        'm: {uses: TEACH, with: {steps: 1, init: "${steps.t.outputs.model}"}}',
        'm: {uses: TEACH, with: {steps: "${steps.t.outputs.metrics.best_step}"}}',
        'm: {uses: TEACH, with: {steps: 1, nested: {a: "${steps.t.outputs.metrics.x}"}}}',
        'm: {uses: TEACH, with: {steps: 1, words: ["$${params.x}"]}, when: []}',
        'm: {uses: TEACH, with: {steps: 1}, when: "${steps.t.outputs.metrics.a} > 1"}',
        # a mix of vision-language models is one, and of something from outside may be one
        'm: {uses: MIX, with: {models: ["${steps.t.outputs.model}"]}}\n'
        '  n: {uses: TEACH, with: {steps: 1, init: "${steps.m.outputs.model}"}}',
        'm: {uses: MIX, with: {models: ["models:/a@b"]}}\n'
        '  n: {uses: TEACH, with: {steps: 1, init: "${steps.m.outputs.model}"}}',
    ],
)
def test_sound_uses(problems_of: ProblemsOf, steps: str) -> None:
    assert problems_of(spell(f"steps:{GOOD}  {steps}\n")) == []


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        (
            "m: {uses: MIX}",
            "7:3 steps.m.with.models: is required: list[Model]. Name what fills it.",
        ),
        (
            "m: {uses: MIX, with: {models: []}}",
            "steps.m.with.models: is empty, wants at least one Model.",
        ),
        (
            'm: {uses: MIX, with: {models: "${steps.t.outputs.model}"}}',
            "steps.m.with.models: wants a list of Model, got one. "
            'Write ["${steps.t.outputs.model}"].',
        ),
        (
            "m: {uses: MIX, with: {models: p.yaml}}",
            'wants a list of Model, got one. Write ["p.yaml"].',
        ),
        (
            'm: {uses: TEACH, with: {steps: 1, init: ["${steps.t.outputs.model}"]}}',
            "steps.m.with.init: got a list of 1, wants one Model[vision-language].",
        ),
        (
            'm: {uses: TEACH, with: {steps: 1, init: "${steps.fan.outputs.model}"}}',
            "steps.m.with.init: wants one Model[vision-language], steps.fan.outputs.model is the "
            "list of all items.",
        ),
        (
            'm: {uses: TEACH, with: {steps: 1, init: "${steps.t.outputs.text_model}"}}',
            "steps.m.with.init: wants Model[vision-language], steps.t.outputs.text_model is "
            "Model[causal-lm]. Fitting: ${steps.t.outputs.model}",
        ),
        (
            'm: {uses: MIX, with: {models: ["${steps.t.outputs.text_model}"]}}\n'
            '  n: {uses: TEACH, with: {steps: 1, init: "${steps.m.outputs.model}"}}',
            "steps.n.with.init: wants Model[vision-language], steps.m.outputs.model is "
            "Model[causal-lm].",
        ),
        (
            'm: {uses: MIX, with: {models: ["${steps.t.outputs.text_model}", '
            '"${steps.t.outputs.model}"]}}\n'
            '  n: {uses: TEACH, with: {steps: 1, init: "${steps.m.outputs.model}"}}',
            "steps.n.with.init: wants Model[vision-language], steps.m.outputs.model is Model.",
        ),
        (
            'm: {uses: MIX, with: {models: ["${steps.t.outputs.metrics.acc}"]}}',
            "steps.m.with.models[0]: wants Model, steps.t.outputs.metrics.acc is a number.",
        ),
        (
            'm: {uses: MIX, with: {models: ["x${steps.t.outputs.model}"]}}',
            'steps.m.with.models[0]: got "x${steps.t.outputs.model}", wants Model. Write',
        ),
        ("m: {uses: MIX, with: {models: [3]}}", "models[0]: got 3, wants Model."),
        ('m: {uses: MIX, with: {models: [""]}}', 'models[0]: got "", wants Model.'),
        (
            "m: {uses: MIX, with: {models: [artifact:sha256:12]}}",
            "artifact:sha256:<64 hex digits>",
        ),
        ('m: {uses: MIX, with: {models: ["models:/a"]}}', "models:/NAME@alias"),
        ('m: {uses: MIX, with: {models: ["hf://a/b"]}}', "a path relative to this file"),
        ('m: {uses: MIX, with: {models: ["file:///no/such"]}}', "no file or folder"),
        ('m: {uses: MIX, with: {models: ["a\\0b"]}}', "no file or folder"),
        ("m: {uses: MIX, with: {models: [LONG]}}", "no file or folder"),
        (
            'm: {uses: TEACH, with: {steps: 1, data: ["models:/a@b"]}}',
            "steps.m.with.data[0]: wants Dataset, models:/a@b is a Model.",
        ),
        ("m: {uses: TEACH}", "steps.m.with.steps: is required."),
        (
            "m: {uses: TEACH, with: {steps: 1, rate: 0}}",
            "steps.m.with.rate: got 0. Input should be greater than 0.",
        ),
        (
            "m: {uses: TEACH, with: {steps: 1, nested: {a: x}}}",
            "steps.m.with.nested.a: got 'x'.",
        ),
        (
            "m: {uses: TEACH, with: {steps: 1, inti: x}}",
            "steps.m.with.inti: is neither an input nor a setting of teach. Did you mean 'init'?",
        ),
        (
            "m: {uses: TEACH, with: {steps: 1, words: [boom]}}",
            "steps.m.with: the settings of teach cannot be checked: ZeroDivisionError: boom.",
        ),
        (
            'm: {uses: TEACH, with: {steps: "${steps.t.outputs.model}"}}',
            "steps.m.with.steps: is a setting, steps.t.outputs.model is an artifact.",
        ),
        (
            'm: {uses: TEACH, with: {steps: "${steps.t.outputs.model.x}"}}',
            "steps.m.with.steps: steps.t.outputs.model.x names a metric, but model is "
            "Model[vision-language]. Valid: metrics.",
        ),
        (
            'm: {uses: TEACH, with: {steps: 1, words: ["${steps.t.outputs.metrics.x}"]}}',
            "steps.m.with.words[0]: a metric cannot be an item of a list.",
        ),
        (
            'm: {uses: TEACH, with: {steps: "<${steps.t.outputs.metrics.x}>"}}',
            "steps.m.with.steps: a metric is known only when its step has ended.",
        ),
        (
            'm: {uses: TEACH, with: {steps: "${steps.fan.outputs.metrics.x}"}}',
            "steps.m.with.steps: steps.fan.outputs.metrics.x is one number for each item.",
        ),
        (
            'm: {uses: TEACH, with: {steps: 1}, when: "${steps.fan.outputs.metrics.x} > 1"}',
            "steps.m.when: steps.fan.outputs.metrics.x is one number for each item.",
        ),
        (
            'm: {uses: TEACH, with: {steps: 1}, when: ["${steps.tt.outputs.metrics.x} > 1"]}',
            "steps.m.when[0]: there is no step 'tt'. Did you mean 't'?",
        ),
        (
            'm: {uses: TEACH, with: {steps: "${item}"}}',
            "steps.m.with.steps: ${item} has a value only under `with` of a step that has a",
        ),
        (
            "m: {uses: TEACH, with: {steps: 1}, foreach: []}",
            "steps.m.foreach: has no items. Use `when` to leave the step out.",
        ),
        (
            'm: {uses: TEACH, with: {steps: "${item}"}, foreach: [1, 2, x]}',
            "steps.m.with.steps: got 'x'. Input should be a valid integer, unable to parse string "
            'as an integer (item 2: "x").',
        ),
        (
            'm: {uses: TEACH, with: {steps: 1}, foreach: ["${steps.t.outputs.model}"]}',
            "steps.m.foreach[0]: steps.t.outputs.model is known only when that step has ended.",
        ),
        (
            'm: {uses: TEACH, with: {steps: 1}, seed: "${steps.t.outputs.metrics.x}"}',
            "steps.m.seed: steps.t.outputs.metrics.x is known only when that step has ended.",
        ),
        (
            'm: {uses: TEACH, with: {steps: 1, init: "${steps.m.outputs.model}"}}',
            "steps.m.with.init: steps wait for each other: m -> m (each needs the next).",
        ),
        (
            "m: {uses: WRITE}",
            "steps.m.uses: write reads the run's record, which exists when the run has ended.",
        ),
        (
            "m: {uses: no-such-thing}",
            "steps.m.uses: no component 'no-such-thing' in the catalogue.",
        ),
        ('m: {uses: "no_such_module:X"}', "steps.m.uses: component 'no_such_module:X': no module"),
    ],
)
def test_one_mistake_is_one_problem(problems_of: ProblemsOf, steps: str, problem: str) -> None:
    [found] = problems_of(spell(f"steps:{GOOD}  {steps}\n"))
    assert problem in found


EXIT = "on_exit: {uses: WRITE, with: {%s}}"
RELEASE = "release: {model: '${steps.%s}', register_as: a, gate: {metrics: '${steps.%s}'%s}}"


def with_tail(tail: str) -> str:
    return spell(f"steps:{GOOD}  m: {{uses: MIX, with: {{models: [p.yaml]}}}}\n{tail}\n")


@pytest.mark.parametrize(
    "tail",
    [
        EXIT % "",
        EXIT % "metrics: '${steps.fan.outputs.metrics}'",
        RELEASE % ("m.outputs.model", "t.outputs.metrics", ", thresholds: {x: {min: 1, max: 1}}"),
        RELEASE % ("t.outputs.model", "t.outputs.metrics", ""),
    ],
)
def test_sound_exits_and_releases(problems_of: ProblemsOf, tail: str) -> None:
    assert problems_of(with_tail(tail)) == []


@pytest.mark.parametrize(
    ("tail", "problem"),
    [
        (
            EXIT % "score: '${steps.t.outputs.metrics.x}'",
            "on_exit.with.score: steps.t.outputs.metrics.x may be missing: the exit step runs",
        ),
        (
            RELEASE % ("fan.outputs.model", "t.outputs.metrics", ""),
            "release.model: wants one Model, steps.fan.outputs.model is the list of all items.",
        ),
        (
            "release: {model: best, register_as: a, gate: {metrics: '${steps.t.outputs.metrics}'}}",
            'release.model: got "best", wants Model. Write ${steps.NAME.outputs.OUTPUT}.',
        ),
        (
            RELEASE % ("t.outputs.model", "t.outputs.metrics.x", ""),
            'release.gate.metrics: got "${steps.t.outputs.metrics.x}", wants Metrics.',
        ),
        (
            RELEASE
            % ("t.outputs.model", "t.outputs.metrics", ", predictions: '${steps.t.outputs.model}'"),
            "wants Dataset[predictions], steps.t.outputs.model is Model[vision-language]. Fitting: "
            "${steps.m.outputs.predictions}.",
        ),
        (
            RELEASE % ("t.outputs.model", "t.outputs.metrics", ", thresholds: {x: }"),
            "release.gate.thresholds.x: got null: wants a mapping.",
        ),
        (
            RELEASE % ("t.outputs.model", "t.outputs.metrics", ", thresholds: {x: {}}"),
            "release.gate.thresholds.x: bounds nothing. Give min, max or both.",
        ),
        (
            RELEASE % ("t.outputs.model", "t.outputs.metrics", ", confidence: 95"),
            "release.gate.confidence: got 95: input should be less than 1.",
        ),
    ],
)
def test_exits_and_releases_with_one_mistake(
    problems_of: ProblemsOf, tail: str, problem: str
) -> None:
    [found] = problems_of(with_tail(tail))
    assert problem in found


def test_registry_names_have_rules(problems_of: ProblemsOf) -> None:
    release = RELEASE % ("t.outputs.model", "t.outputs.metrics", "")
    tail = release.replace("register_as: a", "register_as: a/b, promote_to: '1'")
    found = problems_of(with_tail(tail))
    assert ["register_as" in line or "promote_to" in line for line in found] == [True, True]


def test_paths_start_at_the_files_folder(
    write: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    (tmp_path / "models").mkdir()
    spec = load_pipeline(write(spell("steps: {m: {uses: MIX, with: {models: [models]}}}\n")))
    assert spec.dir == tmp_path
