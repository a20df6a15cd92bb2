"""What a step's pod needs of Kubernetes: KFP's platform document, one entry an executor.

Names follow `kubernetes_executor_config.proto` of kfp-kubernetes in proto JSON. What that has no
field for (priority classes, affinity, a read-only root) is the namespace's to set; see manifests/.
"""

from __future__ import annotations

from typing import Any

from crucible.plan.model import PlanStep
from crucible.specs.context import ContextDocument, EnvSpec, PoolSpec, TolerationSpec
from crucible.specs.pools import pool_of

Json = dict[str, Any]

SCRATCH = "/scratch"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
STEP_LABEL, COMPONENT_LABEL = "crucible.dev/step", "crucible.dev/component"
MANAGED_BY = {"app.kubernetes.io/managed-by": "crucible", "app.kubernetes.io/part-of": "crucible"}
RUN_AS = 65532
"""User and group of our images."""
_KEYS_OF_STORE = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def executor_config(
    context: ContextDocument, step: PlanStep, *, label: str, deadline_minutes: float | None
) -> Json:
    """The platform entry of the pod that runs ``step``.

    Args:
        context: the cluster.
        step: the step, or the most demanding one of a chain.
        label: value of the step label, at most 63 characters.
        deadline_minutes: of the pod as a whole.
    """
    pool = pool_of(context, step.resources.pool)
    config: Json = {
        "podMetadata": {
            "labels": {**MANAGED_BY, STEP_LABEL: label, **_queue(pool, step)},
            "annotations": {COMPONENT_LABEL: step.component},
        },
        "imagePullPolicy": context.image_pull_policy,
        "securityContext": {"runAsUser": RUN_AS, "runAsGroup": RUN_AS, "runAsNonRoot": True},
        "emptyDirMounts": list(_volumes(pool, step)),
        "secretAsEnv": list(_secrets(context)),
        "configMapAsEnv": [_config_map_env(env) for env in context.env if env.config_map],
    }
    if pool.node_selector:
        config["nodeSelector"] = {"labels": dict(pool.node_selector)}
    if pool.tolerations:
        config["tolerations"] = [_toleration(each) for each in pool.tolerations]
    if context.image_pull_secrets:
        config["imagePullSecret"] = [{"secretName": name} for name in context.image_pull_secrets]
    if deadline_minutes is not None:
        config["activeDeadlineSeconds"] = round(deadline_minutes * 60)
    return config


def environment(context: ContextDocument) -> dict[str, str]:
    """Plain environment variables of every step pod."""
    store = context.store
    env = {
        "CRUCIBLE_STORE": store.uri,
        "AWS_REGION": store.region,
        "CRUCIBLE_SCRATCH": SCRATCH,
        "CRUCIBLE_HOME": f"{SCRATCH}/home",
        "CRUCIBLE_LOG_FORMAT": "text",
        "HOME": SCRATCH,
        "TMPDIR": SCRATCH,
    }
    if store.endpoint is not None:
        env["CRUCIBLE_S3_ENDPOINT"] = store.endpoint
    if context.mlflow is not None:
        env["MLFLOW_TRACKING_URI"] = context.mlflow.uri
    return env | {e.name: e.value for e in context.env if e.value is not None}


def _queue(pool: PoolSpec, step: PlanStep) -> dict[str, str]:
    """Only GPU pods are queued: a CPU step would wait for quota that it does not use."""
    return {QUEUE_LABEL: pool.queue} if pool.queue and step.resources.gpus else {}


def _volumes(pool: PoolSpec, step: PlanStep) -> list[Json]:
    volumes: list[Json] = [{"volumeName": "scratch", "mountPath": SCRATCH}]
    shared_gib = pool.shared_memory_gib
    if shared_gib is None and step.resources.gpus:
        shared_gib = step.resources.memory_gib / 2
    if shared_gib is not None:
        size = f"{round(shared_gib * 1024)}Mi"
        mount = {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory"}
        volumes.append({**mount, "sizeLimit": size})
    return volumes


def _secrets(context: ContextDocument) -> list[Json]:
    secrets: list[Json] = []
    if context.store.secret is not None:
        keys = [_key(name, name) for name in _KEYS_OF_STORE]
        secrets.append(_secret(context.store.secret, keys))
    if context.mlflow is not None and context.mlflow.token_secret is not None:
        token = context.mlflow.token_secret
        secrets.append(_secret(token.name, [_key(token.key, "MLFLOW_TRACKING_TOKEN")]))
    secrets += [_secret_env(env) for env in context.env if env.secret is not None]
    return secrets


def _secret(name: str, keys: list[Json]) -> Json:
    return {"secretName": name, "secretNameParameter": _constant(name), "keyToEnv": keys}


def _secret_env(env: EnvSpec) -> Json:
    assert env.secret is not None
    return _secret(env.secret.name, [_key(env.secret.key, env.name)])


def _config_map_env(env: EnvSpec) -> Json:
    assert env.config_map is not None
    source = env.config_map
    return {
        "configMapName": source.name,
        "configMapNameParameter": _constant(source.name),
        "keyToEnv": [{"configMapKey": source.key, "envVar": env.name}],
    }


def _key(key: str, variable: str) -> Json:
    return {"secretKey": key, "envVar": variable}


def _constant(value: str) -> Json:
    """Servers since 2.15 read names as parameters, older ones the plain field: we give both."""
    return {"runtimeValue": {"constant": value}}


def _toleration(spec: TolerationSpec) -> Json:
    return spec.model_dump(exclude_none=True)
