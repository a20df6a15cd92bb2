"""A step on several nodes: what its launcher is told, and the TrainJob that it makes of that.

The pipeline carries the first as a parameter of the launcher's task, plain and complete, since the
launcher has neither plan nor context. What only the launcher knows is added there: which version of
Kubeflow Trainer the cluster runs, whose pod owns the job, which attempt this is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crucible.cluster.trainjobs import API_VERSION, PatchField
from crucible.engines.kfp.kubernetes_config import (
    MANAGED_BY,
    QUEUE_LABEL,
    RUN_AS,
    SCRATCH,
    STEP_LABEL,
    environment,
)
from crucible.errors import UserError
from crucible.plan.model import PlanStep
from crucible.sdk.pod.board import PREFIX_VARIABLE
from crucible.specs.context import ContextDocument, PoolSpec
from crucible.specs.pools import pool_of

Json = dict[str, Any]

RUN_LABEL, OWNER_LABEL = "crucible.dev/run", "crucible.dev/owner"
NODE = "node"
"""What Trainer calls the job and the container of the nodes."""
SHARED_MEMORY = "shared-memory"
"""Volume of the runtime at /dev/shm."""
POD_OVERHEAD_GIB = 0.5
"""What the node's own processes need beside the step's."""
_MANAGER = "crucible.dev/launcher"
_COMMAND = ("python3", "-P", "-m", "crucible.sdk.pod.node")
_MAX_NAME_CHARS = 40
"""Pods are called <name>-node-0-<number>-<random>, and may have 63 characters."""
_STORE_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def trainjob_json(context: ContextDocument, step: PlanStep) -> Json:
    """What the launcher of ``step`` is told, see `TrainJobRequest`."""
    resources, pool = step.resources, pool_of(context, step.resources.pool)
    memory = f"{round((resources.memory_gib + POD_OVERHEAD_GIB) * 1024)}Mi"
    gpus = {pool.gpu_resource: str(resources.gpus)} if resources.gpus else {}
    queued = context.trainer.queued_timeout_minutes
    return {
        "namespace": context.kubernetes.namespace,
        "runtime": context.trainer.runtime,
        "image": step.image,
        "nodes": resources.nodes,
        "processes_per_node": max(1, resources.gpus),
        "memory_gib": resources.memory_gib,
        "resources": {
            "requests": {"cpu": f"{round(resources.cpus * 1000)}m", "memory": memory, **gpus},
            "limits": {"memory": memory, **gpus},
        },
        "env": list(_variables(context)),
        "pod": _pod_patch(context, step, pool),
        "queue": pool.queue,
        "timeout_seconds": None if step.timeout_minutes is None else step.timeout_minutes * 60,
        "queued_timeout_seconds": None if queued is None else queued * 60,
    }


@dataclass(frozen=True)
class TrainJobRequest:
    """What `trainjob_json` wrote."""

    namespace: str
    runtime: str
    image: str
    nodes: int
    processes_per_node: int
    memory_gib: float
    resources: Json
    """``resourcesPerNode``."""
    env: list[Json]
    pod: Json
    """Changes to the pods of the runtime, as a pod's spec has them."""
    queue: str | None
    timeout_seconds: float | None
    """From the first moment at which the job may run: waiting for quota does not count."""
    queued_timeout_seconds: float | None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainJobRequest:
        """Read it back; numbers may have become doubles on the way through KFP.

        Raises:
            UserError: written by another version.
        """
        try:
            numbers = {name: int(value[name]) for name in ("nodes", "processes_per_node")}
            return cls(**{**value, **numbers})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"parameter trainjob: {error}. The pipeline was compiled by another version: "
                "submit it again."
            ) from error


@dataclass(frozen=True)
class Owner:
    """The launcher's pod: the TrainJob goes when it goes."""

    name: str
    uid: str


@dataclass(frozen=True)
class JobIdentity:
    """Which attempt of which step a TrainJob is."""

    run_id: str
    step_id: str
    attempt: int

    @property
    def name(self) -> str:
        """The same for the same attempt, and for no other."""
        text = f"{self.run_id}/{self.step_id}/{self.attempt}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        words = re.sub(r"[^a-z0-9]+", "-", f"{self.step_id}-{self.run_id}".lower()).strip("-")
        head = words if words[:1].isalpha() else f"s-{words}"
        return f"{head[: _MAX_NAME_CHARS - 9].rstrip('-')}-{digest}"

    @property
    def labels(self) -> dict[str, str]:
        """Of all attempts of the step."""
        return {
            **MANAGED_BY,
            RUN_LABEL: label_value(self.run_id),
            STEP_LABEL: label_value(self.step_id),
        }

    @property
    def selector(self) -> str:
        """Finds the TrainJobs of all attempts of the step."""
        return ",".join(f"{name}={self.labels[name]}" for name in (RUN_LABEL, STEP_LABEL))


def label_value(text: str) -> str:
    """``text`` as a label may have it; what had to be changed is told apart by a digest."""
    mended = re.sub(r"[^A-Za-z0-9._-]", "-", text)[:63].strip("-._")
    if mended == text:
        return text
    return f"{mended[:54].rstrip('-._')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def trainjob_manifest(
    request: TrainJobRequest,
    identity: JobIdentity,
    owner: Owner,
    *,
    component: str,
    board_prefix: str,
    patch_field: PatchField | None,
) -> Json:
    """The TrainJob.

    Args:
        request: what the pipeline asks for.
        identity: which attempt this is.
        owner: the launcher's pod.
        component: what the nodes run.
        board_prefix: where the nodes find the rest.
        patch_field: how the cluster's version adapts pods.

    Raises:
        UserError: that version cannot say what the request asks for.
    """
    labels = {**identity.labels, OWNER_LABEL: owner.uid}
    if request.queue:
        labels[QUEUE_LABEL] = request.queue
    board = {"name": PREFIX_VARIABLE, "value": board_prefix}
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainJob",
        "metadata": {
            "name": identity.name,
            "namespace": request.namespace,
            "labels": labels,
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": owner.name, "uid": owner.uid}
            ],
        },
        "spec": {
            "runtimeRef": {"name": request.runtime},
            "trainer": {
                "image": request.image,
                "command": list(_COMMAND),
                "args": [component],
                "numNodes": request.nodes,
                "numProcPerNode": request.processes_per_node,
                "resourcesPerNode": request.resources,
                "env": [*request.env, board],
            },
            **_patches(request.pod, identity.labels, patch_field),
        },
    }


def _patches(pod: Json, labels: Mapping[str, str], field: PatchField | None) -> Json:
    """Changes to the runtime's pods, in the words of the cluster's version of Trainer."""
    if field == "runtimePatches":
        template = {"metadata": {"labels": dict(labels)}, "spec": pod}
        job = {"name": NODE, "template": {"spec": {"template": template}}}
        patch = {"template": {"spec": {"replicatedJobs": [job]}}}
        return {field: [{"manager": _MANAGER, "trainingRuntimeSpec": patch}]}
    older = {name: value for name, value in pod.items() if name != "securityContext"}
    target = {"targetJobs": [{"name": NODE}]}
    if field == "podTemplateOverrides":
        return {field: [{**target, "metadata": {"labels": dict(labels)}, "spec": older}]}
    if field == "podSpecOverrides" and "imagePullSecrets" not in older:
        return {field: [{**target, **older}]}
    missing = "imagePullSecrets" if field else ", ".join(older)
    raise UserError(
        f"this cluster's Kubeflow Trainer cannot set {missing} of a TrainJob's pods. Install "
        "version 2.2 or later, or put that into the training runtime and a context without it."
    )


def _pod_patch(context: ContextDocument, step: PlanStep, pool: PoolSpec) -> Json:
    mount = {"name": "scratch", "mountPath": SCRATCH}
    volumes: list[Json] = [{"name": "scratch", "emptyDir": {}}]
    shared_gib = pool.shared_memory_gib
    if shared_gib is None and step.resources.gpus:
        shared_gib = step.resources.memory_gib / 2
    if shared_gib is not None:
        size = f"{round(shared_gib * 1024)}Mi"
        volumes.append({"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory", "sizeLimit": size}})
    patch: Json = {
        "volumes": volumes,
        "containers": [{"name": NODE, "volumeMounts": [mount]}],
        "securityContext": {"runAsUser": RUN_AS, "runAsGroup": RUN_AS, "fsGroup": RUN_AS},
    }
    if pool.node_selector:
        patch["nodeSelector"] = dict(pool.node_selector)
    if pool.tolerations:
        patch["tolerations"] = [each.model_dump(exclude_none=True) for each in pool.tolerations]
    if context.image_pull_secrets:
        patch["imagePullSecrets"] = [{"name": name} for name in context.image_pull_secrets]
    return patch


def _variables(context: ContextDocument) -> Iterator[Json]:
    """The environment of every step pod, as a container's ``env``."""
    for name, value in environment(context).items():
        yield {"name": name, "value": value}
    if context.store.secret is not None:
        for name in _STORE_KEYS:
            yield _from("secretKeyRef", name, context.store.secret, name)
    for variable in context.env:
        if variable.secret is not None:
            yield _from("secretKeyRef", variable.name, variable.secret.name, variable.secret.key)
        elif variable.config_map is not None:
            source = variable.config_map
            yield _from("configMapKeyRef", variable.name, source.name, source.key)


def _from(kind: str, variable: str, name: str, key: str) -> Json:
    return {"name": variable, "valueFrom": {kind: {"name": name, "key": key}}}
