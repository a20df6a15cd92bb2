import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crucible.errors import UserError
from crucible.sdk.executor import (
    ExecutorInput,
    RuntimeArtifact,
    StepParameters,
    build_executor_input,
    local_path,
    read_executor_output,
    write_executor_output,
)
from crucible.sdk.types import ArtifactType

FROM_A_REAL_LAUNCHER: dict[str, Any] = {
    "inputs": {
        "parameterValues": {
            "config": {"stage": "alignment", "epochs": 2.0},
            "step": {
                "run_id": "r1",
                "step_id": "align",
                "fingerprint": "sha256:00",
                "seed": 7.0,
                "attempt": 1.0,
                "from_a_newer_engine": True,
            },
        },
        "artifacts": {
            "models": {
                "artifacts": [
                    {
                        "name": "27",
                        "type": {"instanceSchema": ""},
                        "uri": "s3://bucket/root/p/r1/a/model",
                        "metadata": {"display_name": "model", "nested": {"struct": {"k": [1]}}},
                    },
                    {"name": "28", "uri": "minio://bucket/root/p/r1/b/model"},
                ]
            }
        },
    },
    "outputs": {
        "artifacts": {
            "executor-logs": {
                "artifacts": [
                    {
                        "name": "executor-logs",
                        "type": {"schemaTitle": "system.Artifact"},
                        "uri": "s3://bucket/root/executor-logs-0",
                    }
                ]
            },
            "merged": {
                "artifacts": [
                    {
                        "name": "merged",
                        "type": {"schemaTitle": "system.Model", "schemaVersion": "0.0.1"},
                        "uri": "s3://bucket/root/p/r1/c/merged",
                    }
                ]
            },
        },
        "outputFile": "/s3/bucket/root/p/r1/c/output_metadata.json",
    },
}


def with_parameters(**parameters: Any) -> str:
    value = json.loads(json.dumps(FROM_A_REAL_LAUNCHER))
    value["inputs"]["parameterValues"].update(parameters)
    return json.dumps(value)


def test_launcher_input_is_read() -> None:
    parsed = ExecutorInput.parse(json.dumps(FROM_A_REAL_LAUNCHER))
    assert parsed.step == StepParameters("r1", "align", "sha256:00", seed=7)
    assert isinstance(parsed.step.seed, int)
    assert [str(entry.path) for entry in parsed.inputs["models"]] == [
        "/s3/bucket/root/p/r1/a/model",
        "/minio/bucket/root/p/r1/b/model",
    ]
    assert list(parsed.outputs) == ["merged"]
    assert parsed.output_file == Path("/s3/bucket/root/p/r1/c/output_metadata.json")


def test_struct_parameters_may_be_json_text() -> None:
    values = FROM_A_REAL_LAUNCHER["inputs"]["parameterValues"]
    as_text = with_parameters(**{name: json.dumps(value) for name, value in values.items()})
    assert ExecutorInput.parse(as_text) == ExecutorInput.parse(json.dumps(FROM_A_REAL_LAUNCHER))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "list"),
        ("{}", "there is no 'outputs'"),
        ('{"outputs": {"outputFile": "x"}}', "there is no 'step'"),
        (with_parameters(step="[1]"), r"parameter step is \[1\], not an object"),
        (with_parameters(step={"run_id": "r"}), "parameter step has no 'step_id'"),
        (
            with_parameters(step={"run_id": "r", "step_id": "s", "fingerprint": "", "seed": "x"}),
            "parameter step: invalid literal",
        ),
        (with_parameters(config=3), "parameter config is 3"),
    ],
)
def test_malformed_input_is_a_user_error(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"--executor-input: .*{message}"):
        ExecutorInput.parse(text)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("s3://bucket/a b/c", "/s3/bucket/a b/c"),
        ("minio://mlpipeline/v2/x", "/minio/mlpipeline/v2/x"),
        ("gs://bucket/x", "/gcs/bucket/x"),
        ("/plain/path%20x", "/plain/path%20x"),
        ("file:///some%20folder/x", "/some folder/x"),
    ],
)
def test_local_path(uri: str, path: str) -> None:
    assert local_path(uri) == Path(path)


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(UserError, match=r"'x://b/c': cannot map x://.*s3://"):
        local_path("x://b/c")


def built(folder: Path) -> ExecutorInput:
    return build_executor_input(
        step=StepParameters("r1", "merge", "sha256:ff", cpus=1.5, metric_refs={"a.b": 0.5}),
        config={"how": {"method": "sce"}, "count": 3, "ratio": 0.5, "none": None},
        inputs={"models": [folder / "in 1", folder / "in2"]},
        outputs={"merged": ArtifactType("Model"), "report": ArtifactType("Report")},
        attempt_dir=folder / "attempt",
    )


def test_built_input_is_read_back(tmp_path: Path) -> None:
    value = built(tmp_path)
    again = ExecutorInput.parse(json.dumps(value.to_json()))
    assert again == value
    assert [entry.path for entry in again.inputs["models"]] == [tmp_path / "in 1", tmp_path / "in2"]
    assert again.outputs["merged"].path == tmp_path / "attempt/outputs/merged"


def test_kfp_reads_and_writes_our_input(tmp_path: Path) -> None:
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    ours = built(tmp_path)
    message = json_format.Parse(json.dumps(ours.to_json()), pipeline_spec_pb2.ExecutorInput())
    assert message.outputs.output_file == str(ours.output_file)
    assert ExecutorInput.parse(json_format.MessageToJson(message)) == ours


def test_kfp_reads_our_output(tmp_path: Path) -> None:
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    metadata = {"accuracy": 0.75, "rows": 12, "digest": "sha256:00"}
    outputs = {"metrics": RuntimeArtifact("metrics", "s3://b/metrics", "system.Metrics", metadata)}
    write_executor_output(tmp_path / "out.json", outputs)
    message = json_format.Parse(
        (tmp_path / "out.json").read_text(), pipeline_spec_pb2.ExecutorOutput()
    )
    artifact = message.artifacts["metrics"].artifacts[0]
    assert json_format.MessageToDict(artifact.metadata) == metadata
    assert (artifact.uri, artifact.type.schema_title) == ("s3://b/metrics", "system.Metrics")
    assert read_executor_output(tmp_path / "out.json") == outputs


def test_half_an_output_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text('{"artifacts": {"m"')
    with pytest.raises(UserError, match=r"out\.json is no ExecutorOutput: .*Run the step again"):
        read_executor_output(tmp_path / "out.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def paths_into(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: list[tuple[Any, Any]] = []
    if isinstance(value, (dict, list)):
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
    return [path, *(found for key, inner in items for found in paths_into(inner, (*path, key)))]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(paths_into(FROM_A_REAL_LAUNCHER)[1:]), json_values)
def test_any_value_anywhere_is_read_or_refused(path: tuple[Any, ...], value: Any) -> None:
    mutated = json.loads(json.dumps(FROM_A_REAL_LAUNCHER))
    holder = mutated
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    try:
        parsed = ExecutorInput.parse(json.dumps(mutated))
    except UserError as error:
        assert "--executor-input" in str(error)  # noqa: PT017
    else:
        assert parsed.step.run_id
