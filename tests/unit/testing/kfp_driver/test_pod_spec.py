from __future__ import annotations

from typing import Any

import pytest

from crucible.testing.kfp_driver.inputs import DriverError
from crucible.testing.kfp_driver.pod_spec import pod_manifest, resources_of
from crucible.testing.kfp_driver.pods import Fault, Pod


def a_pod(**kubernetes: Any) -> Pod:
    return Pod(
        name="p",
        run_id="run",
        task="level/one",
        attempt=1,
        image="image",
        flags=["--flag", "x"],
        command=["run", "{{$}}"],
        environ={"KFP_RETRY_INDEX": "1", "PLAIN": "a"},
        resources={},
        kubernetes=kubernetes,
    )


def spec_of(**kubernetes: Any) -> dict[str, Any]:
    found: dict[str, Any] = pod_manifest(a_pod(**kubernetes), service_account="steps")["spec"]
    return found


def test_the_launcher_stands_before_the_users_command() -> None:
    [main] = spec_of()["containers"]
    assert main["command"][-3:] == ["--flag", "x", "--"]
    assert main["args"] == ["run", "{{$}}"]
    names = [entry["name"] for entry in main["env"]]
    assert names == ["KFP_POD_NAME", "KFP_POD_UID", "KFP_RETRY_INDEX", "PLAIN"]
    assert {mount["mountPath"] for mount in main["volumeMounts"]} >= {
        "/gcs", "/s3", "/minio", "/.local", "/.cache", "/.config", "/kfp-launcher"
    }  # fmt: skip


def test_it_is_hardened_as_kfp_does_it_and_a_little_more() -> None:
    user = {"runAsUser": 65532, "runAsGroup": 65532, "runAsNonRoot": True}
    [main] = spec_of(securityContext=user)["containers"]
    assert main["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
        "readOnlyRootFilesystem": True,
        **user,
    }


def test_what_the_platform_document_says_arrives() -> None:
    toleration = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
    manifest = pod_manifest(
        a_pod(
            nodeSelector={"labels": {"pool": "gpu"}},
            tolerations=[toleration],
            imagePullPolicy="Never",
            imagePullSecret=[{"secretName": "pull"}],
            activeDeadlineSeconds="60",
            podMetadata={"labels": {"a": "b"}, "annotations": {"c": "d"}},
            emptyDirMounts=[
                {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory",
                 "sizeLimit": "64Mi"}
            ],
            secretAsEnv=[
                {"secretName": "s", "optional": True,
                 "keyToEnv": [{"secretKey": "k", "envVar": "SECRET"}]}
            ],
            configMapAsEnv=[
                {"configMapName": "c", "keyToEnv": [{"configMapKey": "k", "envVar": "CONFIG"}]}
            ],
        ),
        service_account="steps",
    )  # fmt: skip
    spec, [main] = manifest["spec"], manifest["spec"]["containers"]
    assert spec["serviceAccountName"] == "steps"
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert spec["tolerations"] == [toleration]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert spec["activeDeadlineSeconds"] == 60
    assert main["imagePullPolicy"] == "Never"
    assert {"name": "shm", "mountPath": "/dev/shm"} in main["volumeMounts"]
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}
    assert shm in spec["volumes"]
    assert main["env"][-2:] == [
        {"name": "SECRET",
         "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
        {"name": "CONFIG", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
    ]  # fmt: skip
    assert manifest["metadata"]["labels"]["a"] == "b"
    assert manifest["metadata"]["labels"]["pipeline/runid"] == "run"
    assert manifest["metadata"]["annotations"]["c"] == "d"


def test_what_this_driver_does_not_follow_is_no_secret() -> None:
    with pytest.raises(DriverError, match="pvcMount"):
        spec_of(pvcMount=[])


def test_the_newer_fields_of_resources_win() -> None:
    given = {
        "cpuRequest": 0.5, "resourceCpuRequest": "500m", "memoryLimit": 1.5, "memoryRequest": 2.0,
        "resourceMemoryRequest": "2048Mi",
        "accelerator": {"type": "nvidia.com/gpu", "count": "2"},
    }  # fmt: skip
    assert resources_of(given) == {
        "requests": {"cpu": "500m", "memory": "2048Mi"},
        "limits": {"memory": "1.5G", "nvidia.com/gpu": "2"},
    }
    assert resources_of({}) == {}


@pytest.mark.parametrize(
    ("task", "attempt", "meets"),
    [("one", 1, True), ("level/one", 1, True), ("one", 0, False), ("ne", 1, False)],
)
def test_a_fault_is_about_one_attempt_of_one_task(task: str, attempt: int, meets: bool) -> None:
    assert Fault(task, "kill", attempt).meets("level/one", 1) is meets
