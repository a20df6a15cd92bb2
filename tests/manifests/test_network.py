"""Who reaches whom, worked out from the policies by their definition."""

from __future__ import annotations

import copy

import pytest

from crucible.testing.manifests import Manifest, of_kind, pod_templates
from crucible.testing.network_policy import Peer, Pod, allowed

SYSTEM, KFP = "crucible-system", "kubeflow"
ENGINE = {"app.kubernetes.io/managed-by": "crucible"}
KUBERNETES_API = "192.0.2.10"
INTERNET = "203.0.113.7"
NODE_DNS = "169.254.20.10"
KFP_PODS = {
    "ml-pipeline": {"app": "ml-pipeline"},
    "metadata-grpc-service": {"component": "metadata-grpc-server"},
    "seaweedfs": {"app": "seaweedfs"},
    "mysql": {"app": "mysql"},
}
"""Labels of pods behind the Services of Kubeflow Pipelines 2.17."""
DNS = Pod("kube-system", {"k8s-app": "kube-dns"})


@pytest.fixture
def policies(overlay: list[Manifest]) -> list[Manifest]:
    return of_kind(overlay, "NetworkPolicy")


@pytest.fixture
def run_namespace(overlay: list[Manifest]) -> str:
    return str(of_kind(overlay, "ServiceAccount")[0]["metadata"]["namespace"])


@pytest.fixture
def step(run_namespace: str) -> Pod:
    return Pod(run_namespace, {**ENGINE, "workflows.argoproj.io/workflow": "quickstart-x7k2p"})


@pytest.fixture
def trainer(run_namespace: str) -> Pod:
    return Pod(run_namespace, {**ENGINE, "jobset.sigs.k8s.io/jobset-name": "quickstart-align"})


@pytest.fixture
def driver(run_namespace: str) -> Pod:
    """KFP's own, without our label."""
    return Pod(run_namespace, {"workflows.argoproj.io/workflow": "quickstart-x7k2p"})


@pytest.fixture
def servers(overlay: list[Manifest]) -> dict[str, Pod]:
    found = {}
    for manifest in [*of_kind(overlay, "StatefulSet"), *of_kind(overlay, "Deployment")]:
        [template] = pod_templates(manifest)
        ports = template["spec"]["containers"][0]["ports"]
        found[manifest["metadata"]["name"]] = Pod(
            manifest["metadata"]["namespace"],
            template["metadata"]["labels"],
            {port["name"]: port["containerPort"] for port in ports},
        )
    return found


def kfp(name: str) -> Pod:
    return Pod(KFP, KFP_PODS[name])


def test_a_step_reaches_what_it_needs(
    policies: list[Manifest], servers: dict[str, Pod], step: Pod
) -> None:
    needed: list[tuple[Peer, int]] = [
        (servers["store"], 8333),
        (servers["mlflow"], 5000),
        (kfp("ml-pipeline"), 8887),
        (kfp("ml-pipeline"), 8888),
        (kfp("metadata-grpc-service"), 8080),
        (kfp("seaweedfs"), 8333),
        (KUBERNETES_API, 6443),
        (DNS, 53),
        (NODE_DNS, 53),
    ]
    assert [target for target, port in needed if not allowed(policies, step, target, port)] == []
    assert allowed(policies, step, DNS, 53, "UDP")


def test_a_step_reaches_nothing_else(
    policies: list[Manifest], servers: dict[str, Pod], step: Pod, trainer: Pod
) -> None:
    refused: list[tuple[Peer, int]] = [
        (servers["store"], 9333),
        (servers["store"], 18333),
        (servers["postgres"], 5432),
        (kfp("mysql"), 3306),
        (kfp("seaweedfs"), 8888),
        (step, 22),
        (trainer, 29500),
        (INTERNET, 443),
        (INTERNET, 53),
        ("169.254.169.254", 80),
        (Pod("default", {}), 80),
        (Pod(SYSTEM, {}), 8333),
    ]
    assert [target for target, port in refused if allowed(policies, step, target, port)] == []


def test_nobody_reaches_a_step(
    policies: list[Manifest], step: Pod, trainer: Pod, driver: Pod
) -> None:
    for source in (driver, trainer, kfp("ml-pipeline"), Pod(SYSTEM, {}), INTERNET):
        assert not allowed(policies, source, step, 8080), source


def test_trainers_reach_each_other_and_no_control_plane(
    policies: list[Manifest], servers: dict[str, Pod], trainer: Pod
) -> None:
    for target, port in ((trainer, 29500), (trainer, 41234), (servers["store"], 8333), (DNS, 53)):
        assert allowed(policies, trainer, target, port), target
    assert allowed(policies, trainer, servers["mlflow"], 5000)
    for other in (kfp("ml-pipeline"), kfp("metadata-grpc-service"), KUBERNETES_API, INTERNET):
        for port in (8887, 8888, 8080, 6443, 443):
            assert not allowed(policies, trainer, other, port), other
    elsewhere = Pod("team-b", trainer.labels)
    assert not allowed(policies, elsewhere, trainer, 29500)
    assert not allowed(policies, trainer, elsewhere, 29500)


def test_mlflow_reaches_its_database_and_the_store(
    policies: list[Manifest], servers: dict[str, Pod]
) -> None:
    mlflow = servers["mlflow"]
    assert allowed(policies, mlflow, servers["postgres"], 5432)
    assert allowed(policies, mlflow, servers["store"], 8333)
    assert allowed(policies, mlflow, DNS, 53, "UDP")
    for target in (INTERNET, KUBERNETES_API, kfp("ml-pipeline")):
        assert not allowed(policies, mlflow, target, 443), target


def test_the_servers_are_closed(
    policies: list[Manifest], servers: dict[str, Pod], run_namespace: str, driver: Pod
) -> None:
    strangers = [
        driver,
        Pod("default", ENGINE),
        Pod(run_namespace, {"app": "notebook"}),
        Pod(SYSTEM, {}),
        INTERNET,
    ]
    ports = {"store": 8333, "mlflow": 5000, "postgres": 5432}
    for stranger in strangers:
        for name, port in ports.items():
            assert not allowed(policies, stranger, servers[name], port), (stranger, name)
    for name in ("store", "postgres"):
        for target in (INTERNET, KUBERNETES_API, DNS, servers["mlflow"]):
            assert not allowed(policies, servers[name], target, 53), name


def test_kfps_own_pods_are_left_alone(policies: list[Manifest], driver: Pod) -> None:
    """A default deny in KFP's namespace would cut off its api-server and database."""
    for target in (kfp("ml-pipeline"), kfp("mysql"), KUBERNETES_API, INTERNET):
        assert allowed(policies, kfp("ml-pipeline"), target, 8080), target
        assert allowed(policies, driver, target, 8080), target


def test_a_forgotten_allowance_is_noticed(
    policies: list[Manifest], servers: dict[str, Pod], step: Pod
) -> None:
    for forgotten in ("store", "mlflow"):
        fewer = [p for p in policies if p["metadata"]["name"] != forgotten]
        assert not allowed(fewer, step, servers[forgotten], servers[forgotten].ports.popitem()[1])
    wider = copy.deepcopy(policies)
    next(p for p in wider if p["metadata"]["name"] == "default-deny")["spec"]["ingress"] = [{}]
    assert allowed(wider, Pod("default", {}), servers["postgres"], 5432)
