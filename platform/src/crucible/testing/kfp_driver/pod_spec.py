"""The pod of a task, as KFP's driver and compiler make it together.

Source: ``backend/src/v2/driver/{driver,k8s}.go`` and ``backend/src/v2/compiler/argocompiler/
container.go`` of Kubeflow Pipelines. Left out are Argo's own containers beside the step's. One
thing is stricter than there: the root file system is read-only, so ``/tmp/kfp``, where KFP has
output parameters written, is a volume.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from crucible.testing.kfp_driver.inputs import DriverError
from crucible.testing.kfp_driver.pods import Pod

Json = dict[str, Any]

LAUNCHER = "kfp-launcher-double"
"""ConfigMap with the launcher's file, and Secret with its way to the bucket."""
KFP_VOLUMES = {
    "gcs-scratch": "/gcs",
    "s3-scratch": "/s3",
    "minio-scratch": "/minio",
    "dot-local-scratch": "/.local",
    "dot-cache-scratch": "/.cache",
    "dot-config-scratch": "/.config",
}
"""Empty folders that the pods of all tasks have."""
RUN_LABEL = "pipeline/runid"
_LAUNCHER_DIR = "/kfp-launcher"
_KNOWN = frozenset({
    "activeDeadlineSeconds", "configMapAsEnv", "emptyDirMounts", "imagePullPolicy",
    "imagePullSecret", "nodeSelector", "podMetadata", "secretAsEnv", "securityContext",
    "tolerations",
})  # fmt: skip
_QUANTITIES = {
    ("requests", "cpu"): ("resourceCpuRequest", "cpuRequest", ""),
    ("requests", "memory"): ("resourceMemoryRequest", "memoryRequest", "G"),
    ("limits", "cpu"): ("resourceCpuLimit", "cpuLimit", ""),
    ("limits", "memory"): ("resourceMemoryLimit", "memoryLimit", "G"),
}


def pod_manifest(pod: Pod, *, service_account: str) -> Json:
    """The Pod object of one attempt.

    Raises:
        DriverError: its platform configuration has something that this driver does not follow.
    """
    config = pod.kubernetes
    if unknown := config.keys() - _KNOWN:
        raise DriverError(f"kubernetes configuration: {sorted(unknown)} is not followed here")
    spec: Json = {
        "restartPolicy": "Never",
        "serviceAccountName": service_account,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_main(pod)],
        "volumes": list(_volumes(config)),
    }
    if "nodeSelector" in config:
        spec["nodeSelector"] = config["nodeSelector"]["labels"]
    if config.get("tolerations"):
        spec["tolerations"] = config["tolerations"]
    if config.get("imagePullSecret"):
        names = [entry["secretName"] for entry in config["imagePullSecret"]]
        spec["imagePullSecrets"] = [{"name": name} for name in names]
    if int(config.get("activeDeadlineSeconds", 0)) > 0:
        spec["activeDeadlineSeconds"] = int(config["activeDeadlineSeconds"])
    metadata = config.get("podMetadata", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod.name,
            "labels": {
                **metadata.get("labels", {}),
                RUN_LABEL: pod.run_id,
                "pipelines.kubeflow.org/v2_component": "true",
            },
            "annotations": {
                **metadata.get("annotations", {}),
                "workflows.argoproj.io/node-name": f"{pod.task}.executor({pod.attempt})",
            },
        },
        "spec": spec,
    }


def _main(pod: Pod) -> Json:
    config = pod.kubernetes
    user = config.get("securityContext", {})
    container: Json = {
        "name": "main",
        "image": pod.image,
        "command": ["python3", "-P", f"{_LAUNCHER_DIR}/launcher.py", *pod.flags, "--"],
        "args": pod.command,
        "env": list(_environment(pod)),
        "envFrom": [{"secretRef": {"name": LAUNCHER}}],
        "resources": resources_of(pod.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
            "readOnlyRootFilesystem": True,
            **{key: int(user[key]) for key in ("runAsUser", "runAsGroup") if key in user},
            **{key: user[key] for key in ("runAsNonRoot",) if key in user},
        },
        "volumeMounts": [
            {"name": "kfp-launcher", "mountPath": _LAUNCHER_DIR},
            *({"name": name, "mountPath": path} for name, path in KFP_VOLUMES.items()),
            *(
                {"name": entry["volumeName"], "mountPath": entry["mountPath"]}
                for entry in config.get("emptyDirMounts", ())
            ),
            {"name": "kfp-outputs", "mountPath": "/tmp/kfp"},
        ],
    }
    if "imagePullPolicy" in config:
        container["imagePullPolicy"] = config["imagePullPolicy"]
    return container


def _environment(pod: Pod) -> Iterator[Json]:
    for name, path in (("KFP_POD_NAME", "metadata.name"), ("KFP_POD_UID", "metadata.uid")):
        yield {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
    for name, value in pod.environ.items():
        yield {"name": name, "value": value}
    for entry in pod.kubernetes.get("secretAsEnv", ()):
        for pair in entry["keyToEnv"]:
            selector = {"name": entry["secretName"], "key": pair["secretKey"]}
            yield _from("secretKeyRef", pair["envVar"], selector, entry)
    for entry in pod.kubernetes.get("configMapAsEnv", ()):
        for pair in entry["keyToEnv"]:
            selector = {"name": entry["configMapName"], "key": pair["configMapKey"]}
            yield _from("configMapKeyRef", pair["envVar"], selector, entry)


def _from(kind: str, name: str, selector: Json, entry: Json) -> Json:
    optional = {"optional": entry["optional"]} if "optional" in entry else {}
    return {"name": name, "valueFrom": {kind: {**selector, **optional}}}


def _volumes(config: Json) -> Iterator[Json]:
    yield {"name": "kfp-launcher", "configMap": {"name": LAUNCHER}}
    for name in (*KFP_VOLUMES, "kfp-outputs"):
        yield {"name": name, "emptyDir": {}}
    for entry in config.get("emptyDirMounts", ()):
        limits = {key: entry[key] for key in ("medium", "sizeLimit") if key in entry}
        yield {"name": entry["volumeName"], "emptyDir": limits}


def resources_of(given: Json) -> Json:
    """Requests and limits; the newer fields, which are text, win over the older numbers."""
    found: Json = {}
    for (kind, resource), (text, number, unit) in _QUANTITIES.items():
        if given.get(text):
            found.setdefault(kind, {})[resource] = given[text]
        elif given.get(number):
            found.setdefault(kind, {})[resource] = f"{given[number]}{unit}"
    accelerator = given.get("accelerator", {})
    name = accelerator.get("resourceType") or accelerator.get("type")
    count = accelerator.get("resourceCount") or accelerator.get("count")
    if name and count:
        found.setdefault("limits", {})[name] = str(count)
    return found
