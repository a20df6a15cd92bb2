"""The JSON Schema accepts what the loader accepts, and refuses what an editor can tell is wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible.sdk.catalogue import component_names
from crucible.specs import pipeline_json_schema
from crucible.specs.document import read_document

TESTED = tuple(
    f"crucible.testing.components:{name}"
    for name in ("Emit", "Sum", "Noop", "MakeModel", "CopyModel", "WantVision")
)


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return pipeline_json_schema(TESTED)


@pytest.fixture(scope="module")
def errors(schema: dict[str, Any]) -> Callable[[Any], list[str]]:
    """Paths that the schema refuses."""
    jsonschema = pytest.importorskip("jsonschema", reason="the oracle of this test")
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    return lambda value: sorted(error.json_path for error in validator.iter_errors(value))


@pytest.fixture
def example(examples_dir: Path) -> dict[str, Any]:
    value: dict[str, Any] = copy.deepcopy(read_document(examples_dir / "pipeline.yaml").value)
    return value


def test_the_example_is_valid(example: Any, errors: Callable[[Any], list[str]]) -> None:
    assert errors(example) == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (lambda v: v.update(kind="Pipelin"), "$.kind"),
        (lambda v: v.update(extra=1), "$"),
        (lambda v: v["metadata"].update(name="A_b"), "$.metadata.name"),
        (lambda v: v["params"]["seed"].update(type="int"), "$.params.seed.type"),
        (lambda v: v["params"].update({"a-b": {"type": "list"}}), "$.params"),
        (lambda v: v.update(steps={}), "$.steps"),
        (lambda v: v["steps"].update({"A b": {"uses": TESTED[0]}}), "$.steps"),
        (lambda v: v["steps"]["fan"]["with"].update(valus=1), "$.steps.fan.with"),
        (lambda v: v["steps"]["fan"]["with"].update(values={"n": "x"}), "$.steps.fan.with.values"),
        (lambda v: v["steps"]["add"].pop("with"), "$.steps.add"),
        (lambda v: v["steps"]["copy"]["with"].pop("model"), "$.steps.copy.with"),
        (lambda v: v["steps"]["copy"]["with"].update(model=[]), "$.steps.copy.with.model"),
        (lambda v: v["steps"]["fan"].update(uses="unknown"), "$.steps.fan.uses"),
        (lambda v: v["steps"]["fan"].update(seed=-1), "$.steps.fan.seed"),
        (lambda v: v["on_exit"].update(foreach=[1]), "$.on_exit"),
        (lambda v: v["release"]["gate"].pop("metrics"), "$.release"),
    ],
)
def test_mistakes_are_refused_where_they_are(
    example: dict[str, Any],
    errors: Callable[[Any], list[str]],
    change: Callable[[dict[str, Any]], object],
    path: str,
) -> None:
    change(example)
    assert errors(example) == [path]


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from objects(item)
    if isinstance(value, list):
        for item in value:
            yield from objects(item)


@pytest.mark.parametrize("components", [TESTED, None], ids=["tested", "catalogue"])
def test_every_reference_inside_the_schema_leads_somewhere(
    components: tuple[str, ...] | None,
) -> None:
    schema = pipeline_json_schema(components)
    targets = {found["$ref"] for found in objects(schema) if isinstance(found.get("$ref"), str)}
    assert {target.removeprefix("#/$defs/") for target in targets} <= schema["$defs"].keys()
    assert all(target.startswith("#/$defs/") for target in targets)


def test_every_component_of_the_catalogue_is_offered() -> None:
    schema = pipeline_json_schema()
    uses = schema["$defs"]["StepSpec"]["properties"]["uses"]["anyOf"][0]["enum"]
    assert uses == list(component_names())
    described = [
        entry["if"]["properties"]["uses"]["const"] for entry in schema["$defs"]["StepSpec"]["allOf"]
    ]
    assert described == uses


def test_fields_and_slots_carry_their_documentation(schema: dict[str, Any]) -> None:
    undocumented = {
        (name, field)
        for name, definition in schema["$defs"].items()
        if name.endswith("Spec")
        for field, entry in definition["properties"].items()
        if not entry.get("description") and "$ref" not in entry
    }
    assert undocumented == set()


def test_the_keys_of_pipeline_files_are_pinned(schema: dict[str, Any]) -> None:
    """A key that is renamed breaks every pipeline file there is: change this on purpose."""
    keys = {name: list(schema["$defs"][name]["properties"]) for name in ("TaskSpec", "StepSpec")}
    task = ["uses", "with", "retry", "resources", "cache", "timeout_minutes", "seed", "image"]
    assert keys == {"TaskSpec": task, "StepSpec": [*task, "foreach", "when", "after"]}
    assert list(schema["properties"]) == [
        *("apiVersion", "kind", "metadata", "params", "defaults", "steps", "on_exit", "release")
    ]
