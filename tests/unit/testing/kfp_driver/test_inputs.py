from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from crucible.testing.kfp_driver import Pipeline, Run, read_pipeline

from .conftest import (
    Json,
    ScriptedRunner,
    leaf,
    level,
    parameters,
    pipeline,
    pipeline_text,
    task,
)

Drive = Callable[..., Run]


def one_task(kinds: dict[str, str], **fields: Any) -> Pipeline:
    return pipeline(level(task("one", **fields)), one=leaf("one", kinds))


def given(runner: ScriptedRunner, path: str = "one") -> Json:
    found: Json = runner.input_of(path)["inputs"]["parameterValues"]
    return found


@pytest.mark.parametrize(
    ("kind", "value", "arrives"),
    [
        ("STRING", "text", "text"),
        ("STRING", 7, "7"),
        ("STRING", 1e-07, "0.0000001"),
        ("STRING", True, "true"),
        ("STRING", {"a": [1.0, "é"]}, '{"a":[1,"é"]}'),
        ("NUMBER_DOUBLE", 3, 3),
        ("NUMBER_DOUBLE", 7.0, 7),
        ("NUMBER_INTEGER", 2**60 + 1, 2**60),
        ("LIST", [1, {"b": None}], [1, {"b": None}]),
        ("STRUCT", {"seed": 7.0}, {"seed": 7}),
        ("BOOLEAN", False, False),
    ],
)
def test_constants_arrive_as_protobuf_holds_them(
    drive: Drive, runner: ScriptedRunner, kind: str, value: Any, arrives: Any
) -> None:
    drive(one_task({"x": kind}, **parameters(x=value)))
    found = given(runner)["x"]
    assert (found, type(found)) == (arrives, type(arrives))


@pytest.mark.parametrize(
    ("kind", "value"),
    [("NUMBER_DOUBLE", "3"), ("LIST", {}), ("STRUCT", []), ("BOOLEAN", 1), ("NUMBER_DOUBLE", True)],
)
def test_the_driver_refuses_a_value_of_another_type(drive: Drive, kind: str, value: Any) -> None:
    run = drive(one_task({"x": kind}, **parameters(x=value)))
    assert "type mismatch" in run.errors["one"]
    assert run.task("one").driver_failed


def test_placeholders_of_the_run_are_filled_in(drive: Drive, runner: ScriptedRunner) -> None:
    run = drive(one_task(
        {"id": "STRING", "name": "STRING", "not_alone": "STRING"},
        **parameters(id="{{$.pipeline_job_uuid}}", name="{{$.pipeline_task_name}}",
                     not_alone="x {{$.pipeline_job_uuid}}"),
    ))  # fmt: skip
    assert given(runner) == {
        "id": run.run_id, "name": "one", "not_alone": "x {{$.pipeline_job_uuid}}"
    }  # fmt: skip


def test_values_come_from_above_and_from_other_tasks(drive: Drive, runner: ScriptedRunner) -> None:
    runner.values = {"level/first": {"score": 0.5}}
    inner = {"inputs": {"parameters": {
        "word": {"componentInputParameter": "word"},
        "score": {"taskOutputParameter": {"producerTask": "first", "outputParameterKey": "score"}},
    }}}  # fmt: skip
    outer = {"inputs": {"parameters": {"word": {"componentInputParameter": "word"}}}}
    root = level(task("level", **outer), word="STRING")
    run = drive(
        pipeline(
            root,
            level=level(task("first"), task("second", **inner), word="STRING"),
            first=leaf("first", score="NUMBER_DOUBLE"),
            second=leaf("second", {"word": "STRING", "score": "NUMBER_DOUBLE"}),
        ),
        {"word": "hello"},
    )
    assert run.task("second").state.value == "succeeded", run.errors
    assert given(runner, "level/second") == {"word": "hello", "score": 0.5}


def test_an_output_that_was_not_written_fails_its_reader(drive: Drive) -> None:
    reads = {"inputs": {"parameters": {
        "score": {"taskOutputParameter": {"producerTask": "first", "outputParameterKey": "score"}},
    }}}  # fmt: skip
    run = drive(pipeline(
        level(task("first"), task("second", **reads)),
        first=leaf("first", score="NUMBER_DOUBLE"),
        second=leaf("second", {"score": "NUMBER_DOUBLE"}),
    ))  # fmt: skip
    assert "expect NUMBER_DOUBLE, got None" in run.errors["second"]


def test_artifacts_come_with_what_the_metadata_store_makes_of_them(
    drive: Drive, runner: ScriptedRunner
) -> None:
    runner.metadata = {"first": {"rows": 3, "ok": True, "nested": {"k": [1]}, "names": ["a"]}}
    artifact = {"artifactType": {"schemaTitle": "system.Dataset", "schemaVersion": "0.0.1"}}
    reads = {"inputs": {"artifacts": {
        "data": {"taskOutputArtifact": {"producerTask": "first", "outputArtifactKey": "data"}},
    }}}  # fmt: skip
    run = drive(pipeline(
        level(task("first"), task("second", **reads)),
        first={**leaf("first"), "outputDefinitions": {"artifacts": {"data": artifact}}},
        second={**leaf("second"), "inputDefinitions": {"artifacts": {"data": artifact}}},
    ))  # fmt: skip
    told = runner.input_of("second")["inputs"]["artifacts"]["data"]["artifacts"]
    assert len(told) == 1
    assert re.fullmatch(
        rf"s3://bucket/root/testing/{run.run_id}/first/[0-9a-f-]{{36}}/data", told[0]["uri"]
    )
    assert told[0]["name"].isdigit()
    assert told[0]["type"] == {"instanceSchema": ""}
    metadata = told[0]["metadata"]
    assert metadata.pop("store_session_info")
    assert metadata == {
        "display_name": "data", "rows": 3, "ok": 1, "nested": {"struct": {"k": [1]}},
        "names": {"list": ["a"]},
    }  # fmt: skip


def test_an_input_that_nobody_passes_needs_a_default(drive: Drive, runner: ScriptedRunner) -> None:
    component = leaf("one", {"x": "NUMBER_DOUBLE"})
    component["inputDefinitions"]["parameters"]["x"] |= {"isOptional": True, "defaultValue": 2.0}
    drive(pipeline(level(task("one")), one=component))
    assert runner.input_of("one")["inputs"] == {}  # the launcher fills it in
    run = drive(one_task({"x": "NUMBER_DOUBLE"}))
    assert "non-optional parameter 'x'" in run.errors["one"]


def test_outputs_have_places_of_the_run(drive: Drive, runner: ScriptedRunner) -> None:
    run = drive(pipeline(level(task("one")), one=leaf("one", {}, **{"a.b/c": "NUMBER_DOUBLE"})))
    outputs = runner.input_of("one")["outputs"]
    assert outputs["parameters"] == {"a.b/c": {"outputFile": "/tmp/kfp/outputs/a.b/c"}}
    [logs] = outputs["artifacts"]["executor-logs"]["artifacts"]
    assert logs["uri"].startswith(f"s3://bucket/root/testing/{run.run_id}/one/")
    place = logs["uri"].removesuffix("executor-logs").replace("s3://", "/s3/")
    assert outputs["outputFile"] == f"{place}output_metadata.json"


def test_what_one_argument_cannot_hold_fails_the_task(drive: Drive) -> None:
    run = drive(one_task({"x": "STRING"}, **parameters(x="x" * 131_000)))
    assert "argument list too long" in run.errors["one"]


def test_a_command_gets_its_parameters(drive: Drive, runner: ScriptedRunner) -> None:
    text = pipeline_text(
        level(task("one", **parameters(a=1, b="two"))),
        one=leaf("one", {"a": "NUMBER_INTEGER", "b": "STRING"}),
    )
    document = yaml.safe_load(text)
    document["deploymentSpec"]["executors"]["exec-one"]["container"] |= {
        "command": ["run"],
        "args": [
            "{{$}}",
            "--a={{$.inputs.parameters['a']}}",
            "{{$.outputs.parameters['o'].output_file}}",
            '{"IfPresent": {"InputName": "b", "Then": ["--b", "{{$.inputs.parameters[\'b\']}}"]}}',
            '{"IfPresent": {"InputName": "c", "Then": ["--c"], "Else": "--no-c"}}',
        ],
    }
    drive(read_pipeline(yaml.safe_dump(document)))
    assert runner.pods[0].command == [
        "run", "{{$}}", "--a=1", "{{$.outputs.parameters['o'].output_file}}", "--b", "two", "--no-c"
    ]  # fmt: skip
