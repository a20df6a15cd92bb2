"""`why` on a real Kubernetes: each fault is induced, and its cause told with what to do."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from crucible.cluster.connection import Connection, connect
from crucible.cluster.workflows import WorkflowNode
from crucible.engines.explain import explain
from crucible.engines.kfp.diagnosis import Diagnosis, witnesses_of
from crucible.engines.kfp.runstate import LOST, run_state
from crucible.engines.kfp.session import Session
from crucible.engines.state import FailureCause, RunState, RunStatus, StepState, StepStatus
from crucible.plan import Plan
from crucible.sdk.component import Resources
from crucible.specs.context import ContextDocument, KubernetesSpec
from crucible.specs.pools import pool_of
from crucible.testing.cluster import Cluster, ClusterFailed, OwnCluster, hardened_pod_spec
from crucible.testing.plans import make_plan, make_step

RUN, PATIENCE_SECONDS = "kfp-run-1", 90.0
Pod = dict[str, Any]
Change = Callable[[Pod], None]


def plan_of(pool: str = "cpu", gpus: int = 0) -> Plan:
    resources = Resources(cpus=0.1, memory_gib=0.02, gpus=gpus, pool=pool)
    return make_plan(make_step("train", "Noop", resources=resources))


@pytest.fixture
def connection(cluster: Cluster, namespace: str) -> Iterator[Connection]:
    spec = KubernetesSpec(kubeconfig=str(cluster.kubeconfig), namespace=namespace)
    connection = connect(spec)
    yield connection
    connection.close()


@pytest.fixture
def session(cluster: Cluster, namespace: str) -> Iterator[Session]:
    """What the engine asks the nodes of a pool through."""
    kubernetes = {"kubeconfig": str(cluster.kubeconfig), "namespace": namespace}
    session = Session(
        ContextDocument.model_validate(
            {
                "apiVersion": "crucible/v1",
                "kind": "Context",
                "metadata": {"name": "why"},
                "kubernetes": kubernetes,
                "store": {"uri": "s3://crucible/store"},
                "images": {"base": f"none@sha256:{'0' * 64}"},
            }
        )
    )
    yield session
    session.close()


def step_pod(cluster: Cluster, script: str = "true") -> Pod:
    """A pod as KFP makes it for the step, as far as we look at it."""
    labels = {"pipeline/runid": RUN, "crucible.dev/step": "train"}
    node = {"workflows.argoproj.io/node-name": "wf.root.train.executor"}
    metadata = {"name": "wf-impl-1", "labels": labels, "annotations": node}
    spec = hardened_pod_spec(cluster.shell_image, script)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def main(pod: Pod) -> dict[str, Any]:
    container: dict[str, Any] = pod["spec"]["containers"][0]
    return container


def asks(resource: str, amount: str) -> Change:
    def change(pod: Pod) -> None:
        main(pod)["resources"] = {"limits": {resource: amount}, "requests": {resource: amount}}

    return change


def selects(pod: Pod) -> None:
    pod["spec"]["nodeSelector"] = {"crucible.dev/pool": "gpu-none"}


def selects_without_toleration(pod: Pod) -> None:
    pod["spec"]["nodeSelector"] = {"crucible.dev/pool": "gpu-why"}


def image(name: str, policy: str = "IfNotPresent") -> Change:
    def change(pod: Pod) -> None:
        main(pod).update(image=name, imagePullPolicy=policy)

    return change


def env_from(kind: str, name: str, key: str) -> Change:
    def change(pod: Pod) -> None:
        main(pod)["env"] = [{"name": "X", "valueFrom": {kind: {"name": name, "key": key}}}]

    return change


def no_such_command(pod: Pod) -> None:
    main(pod)["command"] = ["/no/such/program"]


WAITING: dict[str, tuple[Change, FailureCause, str, str]] = {
    "cpu": (asks("cpu", "100"), FailureCause.UNSCHEDULABLE, "Insufficient cpu", "Wait until cpu"),
    "pool": (selects, FailureCause.UNSCHEDULABLE, "no node carries", "Label nodes"),
    "taint": (selects_without_toleration, FailureCause.UNSCHEDULABLE, "taint", "toleration"),
    "pull": (
        image("registry.invalid/none:1"),
        FailureCause.IMAGE,
        "ErrImagePull|ImagePullBackOff",
        "digest",
    ),
    "never": (image("none:1", "Never"), FailureCause.IMAGE, "ErrImageNeverPull", "Load it"),
    "name": (image("UPPER/:x"), FailureCause.IMAGE, "InvalidImageName", "Correct the name"),
    "secret": (
        env_from("secretKeyRef", "none", "k"),
        FailureCause.CONFIGURATION,
        'secret "none" not found',
        "Create it",
    ),
    "config map": (
        env_from("configMapKeyRef", "none", "k"),
        FailureCause.CONFIGURATION,
        'configmap "none" not found',
        "Create it",
    ),
    "key": (
        env_from("configMapKeyRef", "kube-root-ca.crt", "none"),
        FailureCause.CONFIGURATION,
        "couldn't find key",
        "Add the key",
    ),
}


@pytest.fixture(scope="module")
def gpu_node(cluster: Cluster) -> None:
    """One simulated node with 8 GPUs, tainted as the pools' nodes are."""
    if not isinstance(cluster, OwnCluster):
        pytest.skip("simulated nodes need a cluster of our own")
    cluster.add_nodes(
        1,
        labels={"crucible.dev/pool": "gpu-why"},
        taints=["crucible.dev/pool=gpu-why:NoSchedule"],
        prefix="why",
        capacity={"cpu": "64", "memory": "256Gi", "pods": "110", "nvidia.com/gpu": "8"},
    )


@pytest.mark.parametrize("fault", WAITING)
@pytest.mark.usefixtures("gpu_node")
def test_what_keeps_a_step_from_starting(
    cluster: Cluster, namespace: str, connection: Connection, session: Session, fault: str
) -> None:
    change, cause, message, fix = WAITING[fault]
    pod = step_pod(cluster)
    change(pod)
    cluster.apply(pod, namespace)
    selector = pod["spec"].get("nodeSelector", {"crucible.dev/pool": "cpu"})
    state = diagnosed(
        connection,
        plan_of(selector["crucible.dev/pool"]),
        lambda state: state.steps["train"].obstacle,
        placement=session.placement,
    )
    found = state.steps["train"].obstacle
    assert found is not None
    assert found.cause is cause
    assert fix in found.fix
    text = str(explain(state))
    assert found.message in text
    assert any(part in found.message for part in message.split("|")), found.message


@pytest.mark.usefixtures("gpu_node")
def test_gpus_that_are_not_free_are_counted(
    cluster: Cluster, namespace: str, connection: Connection, session: Session
) -> None:
    pod = step_pod(cluster)
    asks("nvidia.com/gpu", "16")(pod)
    pool = pool_of(session.context, "gpu-why")
    pod["spec"]["nodeSelector"] = pool.node_selector
    pod["spec"]["tolerations"] = [t.model_dump(exclude_none=True) for t in pool.tolerations or ()]
    cluster.apply(pod, namespace)
    state = diagnosed(
        connection,
        plan_of("gpu-why", 16),
        lambda state: state.steps["train"].obstacle,
        placement=session.placement,
    )
    found = state.steps["train"].obstacle
    assert found is not None
    assert found.cause is FailureCause.UNSCHEDULABLE
    assert "gpu-why" in found.message
    assert "16 GPUs" in found.message
    assert "nvidia.com/gpu is free" in found.fix


ENDED: dict[str, tuple[str, Change, FailureCause, str]] = {
    "memory": (
        "head -c 200m /dev/zero | tail",
        asks("memory", "20Mi"),
        FailureCause.OUT_OF_MEMORY,
        "more than its limit of 0.02 GiB",
    ),
    "deadline": (
        "sleep 100",
        lambda pod: pod["spec"].update(activeDeadlineSeconds=2),
        FailureCause.TIMEOUT,
        "DeadlineExceeded",
    ),
    "command": ("", no_such_command, FailureCause.IMAGE, "no such file or directory"),
    "exit": ("exit 3", lambda pod: None, FailureCause.KILLED, "exit code 3"),
}


@pytest.mark.parametrize("fault", ENDED)
def test_why_a_pod_ended_that_said_nothing(
    cluster: Cluster, namespace: str, connection: Connection, fault: str
) -> None:
    script, change, cause, message = ENDED[fault]
    pod = step_pod(cluster, script)
    change(pod)
    cluster.apply(pod, namespace)
    state = diagnosed(connection, plan_of(), _is_explained, lost=True)
    found = state.steps["train"].failure
    assert found is not None
    assert found.cause is cause
    assert message in found.message
    assert message in str(explain(state))


def test_a_pod_that_the_cluster_took_away_is_no_fault_of_the_step(
    cluster: Cluster, namespace: str, connection: Connection
) -> None:
    pod = step_pod(cluster, "sleep 100")
    pod["metadata"]["finalizers"] = ["crucible.dev/kept"]  # so that it can still be looked at
    cluster.apply(pod, namespace)
    cluster.wait("condition=Ready", "pod/wf-impl-1", namespace=namespace)
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "wf-impl-1", "namespace": namespace},
    }
    path = f"/api/v1/namespaces/{namespace}/pods/wf-impl-1/eviction"
    cluster.kubectl("create", "--raw", path, "-f", "-", text=json.dumps(eviction))
    state = diagnosed(connection, plan_of(), _is_explained, lost=True)
    free = '{"metadata": {"finalizers": null}}'
    cluster.kubectl("patch", "pod", "wf-impl-1", "-n", namespace, "--type=merge", "-p", free)
    found = state.steps["train"].failure
    assert found is not None
    assert found.cause is FailureCause.EVICTED
    assert "Eviction API" in found.message
    assert "last checkpoint" in found.fix


def quota(cluster: Cluster, namespace: str) -> None:
    limit = {"hard": {"pods": "0"}}
    cluster.apply(
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": limit},
        namespace,
    )
    time.sleep(1.0)  # the admission plugin reads quotas from a cache


def limit_range(cluster: Cluster, namespace: str) -> None:
    limits = {"limits": [{"type": "Container", "max": {"memory": "10Mi"}}]}
    cluster.apply(
        {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": limits},
        namespace,
    )
    time.sleep(1.0)


def nothing(cluster: Cluster, namespace: str) -> None:
    return


def privileged(pod: Pod) -> None:
    main(pod)["securityContext"] = {"privileged": True}


def stranger(pod: Pod) -> None:
    pod["spec"]["serviceAccountName"] = "nobody"


UNMADE: dict[str, tuple[Callable[[Cluster, str], None], Change, FailureCause, str]] = {
    "quota": (quota, lambda pod: None, FailureCause.QUOTA, "exceeded quota"),
    "limit range": (limit_range, asks("memory", "1Gi"), FailureCause.QUOTA, "10Mi"),
    "pod security": (nothing, privileged, FailureCause.REFUSED, "violates PodSecurity"),
    "account": (nothing, stranger, FailureCause.CONFIGURATION, "nobody"),
}


@pytest.mark.parametrize("fault", UNMADE)
def test_why_a_pod_was_never_made(cluster: Cluster, namespace: str, fault: str) -> None:
    """Argo keeps the API server's own words in the node of the Workflow."""
    prepare, change, cause, message = UNMADE[fault]
    prepare(cluster, namespace)
    pod = step_pod(cluster)
    change(pod)
    with pytest.raises(ClusterFailed) as refused:
        cluster.apply(pod, namespace)
    said = str(refused.value)
    node = WorkflowNode(
        "n", "wf.root.train.executor", "executor", "Pod", "Error", said, "", "impl", None, None
    )
    state = fresh_state(lost=False)
    state.steps["train"].status, state.steps["train"].failure = StepStatus.FAILED, LOST
    Diagnosis(plan_of(), (), (node,), ()).apply(state)
    found = state.steps["train"].failure
    assert found is not None
    assert found.cause is cause
    assert message in found.message


def fresh_state(*, lost: bool) -> RunState:
    state = run_state(plan_of(), (), None)
    state.status = RunStatus.FAILED if lost else RunStatus.RUNNING
    if lost:
        state.steps["train"].status, state.steps["train"].failure = StepStatus.FAILED, LOST
        state.steps["train"].attempt = 1
    return state


def _is_explained(state: RunState) -> object:
    step: StepState = state.steps["train"]
    return step.failure != LOST


def diagnosed(
    connection: Connection,
    plan: Plan,
    is_told: Callable[[RunState], object],
    *,
    lost: bool = False,
    placement: Callable[[Resources], str] = lambda resources: "",
) -> RunState:
    """The state once the pod's fault shows."""
    started = {"type": "step.started", "step": "train", "attempt": 1, "pod": "wf-impl-1"}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        state = copy.deepcopy(fresh_state(lost=lost))
        found = witnesses_of(connection, connection.namespace, RUN)
        events = [started] if lost else []
        Diagnosis(plan, found.pods, found.nodes, events, placement).apply(state)
        if is_told(state):
            return state
        time.sleep(0.5)
    raise AssertionError(f"nothing was told: {found.pods}")
