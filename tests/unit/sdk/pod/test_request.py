import json
from typing import Any

import pytest

from crucible.errors import UserError
from crucible.sdk.pod.request import Metric, PodRequest, Source, patched
from crucible.sdk.types import ArtifactType

STEP = {
    "step_id": "train",
    "component": "train-vlm",
    "fingerprint": "sha256:f",
    "code": "sha256:c",
    "inputs": {
        "init": [{"step": "align", "output": "model"}],
        "trials": [{"step": "trial", "output": "metrics", "count": 3.0}, {"digest": "sha256:d"}],
    },
    "outputs": {"model": {"name": "Model", "variant": "causal-lm"}},
    "metric_refs": {"lr": {"step": "probe", "output": "metrics", "metric": "best"}},
    "parameters": {"train.metrics.loss": {"step": "train", "output": "metrics", "metric": "loss"}},
    "seed": 7.0,
    "cache": False,
}


def parse(**parameters: Any) -> PodRequest | None:
    values = {"run_id": "r1", "kfp_run_id": "k1", "plan": "sha256:p", **parameters}
    text = {
        "inputs": {"parameterValues": {k: v for k, v in values.items() if v is not None}},
        "outputs": {
            "artifacts": {
                "model": {"artifacts": [{"name": "m", "uri": "s3://b/m"}]},
                "executor-logs": {"artifacts": [{"name": "l", "uri": "s3://b/l"}]},
            },
            "outputFile": "/tmp/out.json",
        },
    }
    return PodRequest.parse(json.dumps(text))


def test_one_step_as_kfp_passes_it() -> None:
    request = parse(step=STEP, config={"lr": 1e-3})
    assert request is not None
    (step,) = request.steps
    assert (request.run_id, request.kfp_run_id, request.plan_digest) == ("r1", "k1", "sha256:p")
    assert step.config == {"lr": 1e-3}
    assert step.inputs["init"] == (Source("align", "model"),)
    assert step.inputs["trials"] == (
        Source("trial", "metrics", count=3),
        Source(digest="sha256:d"),
    )
    assert step.inputs["trials"][0].step_ids == ["trial[0]", "trial[1]", "trial[2]"]
    assert step.outputs == {"model": ArtifactType("Model", "causal-lm")}
    assert step.metric_refs == {"lr": Metric("probe", "metrics", "best")}
    assert step.parameters == {"train.metrics.loss": Metric("train", "metrics", "loss")}
    assert (step.seed, step.cache, step.cpus) == (7, False, 1.0)
    assert list(request.outputs) == ["model"]
    assert request.artifact_name(step, "model") == "model"


def test_structs_may_come_as_their_text() -> None:
    assert parse(step=json.dumps(STEP), config=json.dumps({"lr": 1})) == parse(
        step=STEP, config={"lr": 1}
    )


def test_a_chain_names_its_artifacts_by_step() -> None:
    members = [{**STEP, "config": {}}, {**STEP, "step_id": "eval", "config": {"n": 1}}]
    request = parse(chain=members)
    assert request is not None
    assert [step.step_id for step in request.steps] == ["train", "eval"]
    assert request.artifact_name(request.steps[1], "model") == "eval.model"


def test_an_item_changes_what_sets_it_apart() -> None:
    changes = [[["step_id"], "train[4]"], [["config", "lr"], 0.1], [["config", "old"]]]
    request = parse(step=STEP, config={"lr": 1, "old": 2, "kept": 3}, item=json.dumps(changes))
    assert request is not None
    assert request.steps[0].step_id == "train[4]"
    assert request.steps[0].config == {"lr": 0.1, "kept": 3}


def test_patching_leaves_the_original_alone() -> None:
    base: dict[str, Any] = {"a": {"b": 1}}
    assert patched(base, [[["a", "b"], 2], [["c", "d"], 3]]) == {"a": {"b": 2}, "c": {"d": 3}}
    assert base == {"a": {"b": 1}}


def test_without_a_run_it_is_a_plain_step() -> None:
    assert parse(run_id=None, step=STEP, config={}) is None


@pytest.mark.parametrize("missing", ["step_id", "component", "fingerprint", "inputs", "outputs"])
def test_what_is_missing_is_named(missing: str) -> None:
    step = {name: value for name, value in STEP.items() if name != missing}
    with pytest.raises(UserError, match=rf"{missing}.*compile or submit it again"):
        parse(step=step, config={})
