"""TrainJobs of all versions of Kubeflow Trainer, made once."""

from __future__ import annotations

import pytest

from crucible.cluster.trainjobs import (
    create_trainjob,
    delete_trainjob,
    get_trainjob,
    trainer_features,
    trainjob_view,
    watch_trainjobs,
)
from crucible.errors import ObjectConflict, ObjectRejected
from crucible.testing.kube_api import Fault

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/runs/trainjobs"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
JOB = {"metadata": {"name": "run-train"}, "spec": {"runtimeRef": {"name": "crucible-torch"}}}


def define(api, *fields: str, status: bool = True) -> None:
    progress = {"properties": {"progressPercentage": {}}} if status else {}
    schema = {
        "properties": {
            "spec": {"properties": {name: {"type": "array"} for name in fields}},
            "status": {"properties": {"trainerStatus": progress}},
        }
    }
    version = {"name": "v1alpha1", "served": True, "schema": {"openAPIV3Schema": schema}}
    name = "trainjobs.trainer.kubeflow.org"
    api.put(DEFINITIONS, {"metadata": {"name": name}, "spec": {"versions": [version]}})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (("podSpecOverrides",), "podSpecOverrides"),
        (("podSpecOverrides", "podTemplateOverrides"), "podTemplateOverrides"),
        (("podTemplateOverrides", "runtimePatches"), "runtimePatches"),
        (("trainer",), None),
    ],
)
def test_the_schema_tells_how_pods_are_adapted(api, connection, fields, expected) -> None:
    define(api, *fields)
    assert trainer_features(connection).patch_field == expected


def test_progress_and_deadline(api, connection) -> None:
    define(api, "activeDeadlineSeconds", status=False)
    features = trainer_features(connection)
    assert (features.has_deadline, features.has_progress) == (True, False)
    define(api)
    features = trainer_features(connection)
    assert (features.has_deadline, features.has_progress) == (False, True)


def test_no_trainer(connection) -> None:
    assert trainer_features(connection) is None


def test_without_the_right_to_read_definitions_the_published_api_tells(api, connection) -> None:
    api.denied = ["get apiextensions.k8s.io/v1/customresourcedefinitions"]
    assert trainer_features(connection) is None
    name = "org.kubeflow.trainer.v1alpha1.TrainJob"
    body = {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}}
    path = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/{namespace}/trainjobs"
    schema = {"properties": {"spec": {"properties": {"runtimePatches": {}}}}}
    api.documents["/openapi/v3/apis/trainer.kubeflow.org/v1alpha1"] = {
        "paths": {path: {"post": {"requestBody": body}}},
        "components": {"schemas": {name: schema}},
    }
    assert trainer_features(connection).patch_field == "runtimePatches"


@pytest.mark.parametrize("kind", ["lose-answer", "lose-request"])
def test_one_is_made_whatever_gets_lost(api, connection, kind) -> None:
    api.faults.append(Fault(method="POST", kind=kind, times=2))
    assert create_trainjob(connection, "runs", JOB).name == "run-train"
    assert create_trainjob(connection, "runs", JOB).name == "run-train"
    assert [event.type for event in api.events] == ["ADDED"]


def test_one_that_is_being_deleted_will_not_do(api, connection) -> None:
    gone = {"name": "run-train", "deletionTimestamp": "2026-01-01T00:00:00Z"}
    api.put(JOBS, {**JOB, "metadata": gone})
    with pytest.raises(ObjectConflict, match="already exists"):
        create_trainjob(connection, "runs", JOB)


def test_a_refusal_keeps_the_webhooks_words(api, connection) -> None:
    said = 'admission webhook "validator.trainjob" denied the request: no runtime of that name'
    api.faults.append(Fault(method="POST", status=403, message=said))
    with pytest.raises(ObjectRejected, match="no runtime of that name"):
        create_trainjob(connection, "runs", JOB)


def test_get_watch_delete(api, connection) -> None:
    made = create_trainjob(connection, "runs", JOB)
    assert get_trainjob(connection, "runs", "run-train") == made
    with watch_trainjobs(connection, "runs", name="run-train") as watching:
        assert watching.get(timeout_seconds=5.0).kind == "added"
        assert not delete_trainjob(connection, "runs", "run-train", uid="of another")
        assert delete_trainjob(connection, "runs", "run-train", uid=made.uid)
        assert watching.get(timeout_seconds=5.0).kind == "deleted"
    assert not delete_trainjob(connection, "runs", "run-train")
    assert get_trainjob(connection, "runs", "run-train") is None


def condition(type_: str, status: str = "True", **fields: str) -> dict[str, str]:
    return {"type": type_, "status": status, **fields}


@pytest.mark.parametrize(
    ("status", "spec", "state"),
    [
        ({}, {}, "starting"),
        ({}, {"suspend": True}, "suspended"),
        ({"conditions": [condition("Suspended")]}, {}, "suspended"),
        ({"conditions": [condition("Suspended", "False")]}, {}, "starting"),
        ({"jobsStatus": [{"name": "node", "active": 1}]}, {}, "starting"),
        ({"jobsStatus": [{"name": "node", "active": 1, "ready": 1}]}, {}, "running"),
        ({"jobsStatus": [{"name": "node", "ready": 1, "active": 1}],
          "conditions": [condition("Complete")]}, {}, "complete"),
        ({"conditions": [condition("Suspended"), condition("Failed")]}, {}, "failed"),
    ],
)  # fmt: skip
def test_states(status, spec, state) -> None:
    found = trainjob_view({"metadata": {"name": "a"}, "spec": spec, "status": status})
    assert found.state == state
    assert found.is_finished == (state in ("complete", "failed"))


def test_progress_and_failure() -> None:
    trainer = {
        "progressPercentage": 42,
        "estimatedRemainingSeconds": 300,
        "metrics": [{"name": "loss", "value": "0.25"}, {"name": "odd", "value": "n/a"}],
    }
    failed = condition("Failed", reason="FailedJobs", message="job node failed")
    found = trainjob_view({
        "metadata": {"name": "a"},
        "status": {"trainerStatus": trainer, "conditions": [failed]},
    })  # fmt: skip
    assert (found.progress_percentage, found.remaining_seconds) == (42.0, 300.0)
    assert found.metrics == {"loss": 0.25}
    assert found.failure == "FailedJobs: job node failed"
