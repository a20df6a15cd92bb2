from __future__ import annotations

from typing import Any

import pytest
import yaml

from crucible.testing.kfp_driver import RefusedPipeline, read_pipeline

from .conftest import leaf, level, pipeline, pipeline_text, task

LOOP: dict[str, Any] = {"parameterIterator": {"items": {"raw": '["a"]'}, "itemInput": "item"}}


def test_a_field_that_kfp_does_not_know_is_refused() -> None:
    text = pipeline_text(level(task("one", unheard_of=1)), one=leaf("one"))
    with pytest.raises(RefusedPipeline, match=r"pipeline spec is invalid.*unheard_of"):
        read_pipeline(text)


def test_so_is_one_of_the_platform() -> None:
    platform = {"platforms": {"kubernetes": {"deploymentSpec": {"executors": {
        "exec-one": {"nodeSelectors": {}}}}}}}  # fmt: skip
    text = pipeline_text(level(task("one")), one=leaf("one"))
    with pytest.raises(RefusedPipeline, match="nodeSelectors"):
        read_pipeline(f"{text}---\n{yaml.safe_dump(platform)}")


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([task("one", component="comp-none")], "cannot find component ref name='comp-none'"),
        ([task("one", after=("two",))], "unknown producer task 'two'"),
        (
            [task("one", after=("two",)), task("two", after=("one",), component="comp-one")],
            "wait for each other",
        ),
        (
            [
                task("one", component="comp-all", **LOOP),
                task("two", component="comp-all", **LOOP),
            ],
            "already exists",
        ),
        (
            [task("one", triggerPolicy={"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"})],
            "one or more non-exit tasks",
        ),
    ],
)
def test_levels_that_kfp_cannot_compile_are_refused(tasks: list[Any], said: str) -> None:
    inner = level(task("one"), item="STRING")
    with pytest.raises(RefusedPipeline, match=said):
        pipeline(level(*tasks), one=leaf("one"), all=inner)


def test_equal_containers_need_equal_components() -> None:
    """KFP keeps one component a container, so that one of these would get the other's outputs."""
    first, second = leaf("one"), {**leaf("one"), **leaf("x", out="STRING"), "executorLabel": "b"}
    document = yaml.safe_load(pipeline_text(level(task("one"), task("two")), one=first, two=second))
    executors = document["deploymentSpec"]["executors"]
    executors["b"] = executors["exec-one"]
    with pytest.raises(RefusedPipeline, match="comp-one and comp-two differ"):
        read_pipeline(yaml.safe_dump(document))
    document["components"]["comp-two"] = {**leaf("one"), "executorLabel": "b"}
    assert read_pipeline(yaml.safe_dump(document)).components


def test_parameters_of_a_run_are_checked_as_the_server_does() -> None:
    root = level(task("one"), word="STRING", other="STRING")
    root["inputDefinitions"]["parameters"]["other"] |= {"isOptional": True, "defaultValue": ""}
    read = pipeline(root, one=leaf("one"))
    assert read.parameters({"word": "a"}) == {"word": "a", "other": ""}
    with pytest.raises(RefusedPipeline, match="not required by pipeline: nope"):
        read.parameters({"word": "a", "nope": 1})
    with pytest.raises(RefusedPipeline, match="parameter word is not optional"):
        read.parameters({})
