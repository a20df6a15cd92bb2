import json
from typing import Annotated, Literal

import pytest
from pydantic import Field

from crucible.sdk.catalogue import describe, reference_markdown
from crucible.sdk.component import (
    Component,
    ComponentConfig,
    ComponentInputs,
    ComponentOutputs,
    Resources,
)
from crucible.sdk.reference import setting_type
from crucible.sdk.types import Dataset, Metrics, Model, Questions, SameVariantAs, VisionLanguage


class Linear(ComponentConfig):
    """Weighted mean of the parameters."""

    method: Literal["linear"] = "linear"
    weights: list[float] | None = None
    """One a model; None: equal."""


class Sce(ComponentConfig):
    """Select, calculate, erase."""

    method: Literal["sce"] = "sce"
    density_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of parameters kept."""


class Merge(Component):
    """Merge models | of one base.

    More words.
    """

    name = "merge"
    version = "3"
    resources = Resources(cpus=2, memory_gib=4)

    class Inputs(ComponentInputs):
        models: list[Model]
        """At least two."""
        probe: Dataset[Questions] | None
        """Scored before
        and after."""

    class Config(ComponentConfig):
        how: Annotated[Linear | Sce, Field(discriminator="method")]
        """The method."""
        seeds: list[int] = Field(default_factory=lambda: [1])

    class Outputs(ComponentOutputs):
        merged: Annotated[Model, SameVariantAs("models")]
        vlm: Model[VisionLanguage] | None
        metrics: Metrics

    def run(self, inputs, config, outputs, context): ...


def test_describe_reads_slots_with_their_docstrings() -> None:
    info = describe(Merge)
    assert [(slot.name, slot.description) for slot in info.inputs] == [
        ("models", "At least two."),
        ("probe", "Scored before\nand after."),
    ]
    assert [str(slot.type) for slot in info.outputs] == [
        "Model",
        "Model[vision-language]",
        "Metrics",
    ]
    assert info.summary == "Merge models | of one base."
    assert info.config_schema["$defs"]["Sce"]["properties"]["density_fraction"]["maximum"] == 1


class Described(Linear):
    """Its own strings win, those of bases stay, and what a field says of itself stands."""

    weights: list[float] | None = None
    """Not used."""
    epsilon: Annotated[float, Field(description="Given to the field.", alias="eps")] = 1e-6
    """Under the field."""
    silent: int = 0


def test_schema_has_the_strings_under_the_fields_at_any_depth() -> None:
    schema = describe(Merge).config_schema
    assert schema["properties"]["how"]["description"] == "The method."
    assert "description" not in schema["properties"]["seeds"]
    nested = schema["$defs"]["Sce"]["properties"]["density_fraction"]
    assert nested["description"] == "Share of parameters kept."
    own = Described.model_json_schema()["properties"]
    assert own["weights"]["description"] == "Not used."
    assert own["eps"]["description"] == "Given to the field."
    assert "description" not in own["silent"]


def test_declaring_a_component_reads_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would cost every start of platformctl tens of milliseconds."""

    def refuse(*_: object) -> None:
        raise AssertionError("source was read")

    monkeypatch.setattr("inspect.getsource", refuse)
    monkeypatch.setattr("inspect.getsourcelines", refuse)
    monkeypatch.setattr("inspect.findsource", refuse)

    class Late(ComponentConfig):
        setting: int = 1
        """Read when somebody asks."""

    assert Late().setting == 1


def test_description_is_json() -> None:
    info = describe(Merge).to_json()
    again = json.loads(json.dumps(info))
    assert (again["name"], again["version"], again["resources"]["cpus"]) == ("merge", "3", 2)


def test_reference_page_holds_every_slot_setting_and_nested_setting() -> None:
    page = reference_markdown(Merge)
    lines = page.splitlines()
    assert lines[0] == "# merge"
    assert "| `models` | `list[Model]` | At least two. |" in lines
    assert "| `probe` | `Dataset[questions] \\| None` | Scored before and after. |" in lines
    assert "| `merged` | `Model, variant of models` |  |" in lines
    assert "| `how` | `Linear \\| Sce` | required | The method. |" in lines
    assert "| `seeds` | `list[integer]` | computed |  |" in lines
    assert "| `density_fraction` | `number > 0 ≤ 1` | `0.2` | Share of parameters kept. |" in lines
    assert "2 CPUs, 4 GiB, 0 GPUs" in page


def test_component_without_anything_has_a_page() -> None:
    class Bare(Component):
        name = "bare"

        def run(self, inputs, config, outputs, context): ...

    assert reference_markdown(Bare).count("None.") == 3


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "integer", "minimum": 0}, "integer ≥ 0"),
        ({"enum": ["a", "b"]}, '"a" | "b"'),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, "number | null"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "map[number]"),
        ({"const": 1}, "1"),
        ({}, "any"),
    ],
)
def test_setting_type(schema: dict[str, object], text: str) -> None:
    assert setting_type(schema) == text
