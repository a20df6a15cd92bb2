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
