"""Pods that pass the strictest of the pod security standards."""

from __future__ import annotations

from typing import Any

_CONTAINER_LIMITS = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_POD_LIMITS = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def hardened_pod_spec(image: str, script: str) -> dict[str, Any]:
    """A pod's ``spec``: one container, ``main``, that runs a shell script once and may do nothing.

    It has one place to write to, ``/tmp``.
    """
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "securityContext": _CONTAINER_LIMITS,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    return {
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "restartPolicy": "Never",
        "securityContext": _POD_LIMITS,
        "terminationGracePeriodSeconds": 1,
    }


def pod(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A Pod labelled ``app=NAME``."""
    metadata = {"name": name, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def job(
    name: str, spec: dict[str, Any], annotations: dict[str, str] | None = None
) -> dict[str, Any]:
    """A Job that tries once; the annotations are its pods'."""
    template = {"metadata": {"annotations": annotations or {}}, "spec": spec}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": template},
    }
