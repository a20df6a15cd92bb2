"""The clients of `crucible.cluster` against a real Kubernetes in good health."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crucible.cluster import Connection, Patience, connect
from crucible.cluster.access import kfp_access
from crucible.cluster.checks import cluster_findings
from crucible.cluster.forward import forward
from crucible.cluster.nodes import PlacementRequest, placement_report, pool_view
from crucible.cluster.paths import path_of
from crucible.cluster.permissions import Right, check_rights, secrets_finding
from crucible.cluster.pod_events import events_of
from crucible.cluster.pod_log import read_log
from crucible.cluster.pods import PodView, get_pod, watch_pods
from crucible.cluster.service_checks import Site, kfp
from crucible.errors import (
    ClusterRefused,
    ClusterUnavailable,
    ObjectNotFound,
    ObjectRejected,
    UserError,
)
from crucible.specs.context import ContextDocument, KubernetesSpec, PoolSpec, TolerationSpec
from crucible.testing.cluster import Cluster, OwnCluster, hardened_pod_spec, pod

WAIT_SECONDS = 120.0
WEB = """
mkdir -p /tmp/www/apis/v2beta1
echo '{"tag_name": "2.17.0", "multi_user": false}' > /tmp/www/apis/v2beta1/healthz
hostname > /tmp/www/name
head -c 20000000 /dev/urandom > /tmp/www/big
sha256sum /tmp/www/big | cut -d' ' -f1 > /tmp/www/digest
exec httpd -f -p 8080 -h /tmp/www
"""


@pytest.fixture
def connection(cluster: Cluster, namespace: str) -> Iterator[Connection]:
    with connected(cluster.kubeconfig, namespace) as made:
        yield made


@contextlib.contextmanager
def connected(kubeconfig: Path, namespace: str) -> Iterator[Connection]:
    spec = KubernetesSpec(kubeconfig=str(kubeconfig), namespace=namespace)
    made = connect(spec, patience=Patience(budget_seconds=30.0))
    yield made
    made.close()


def wait_for(connection: Connection, name: str, holds: Callable[[PodView], object]) -> PodView:
    """The pod, once something holds for it; seen by a watch."""
    deadline = time.monotonic() + WAIT_SECONDS
    with watch_pods(connection, connection.namespace, name=name) as watching:
        while time.monotonic() < deadline:
            change = watching.get(timeout_seconds=1.0)
            if change is not None and holds(change.item):
                return change.item
    raise AssertionError(
        f"it did not happen to {name}: {get_pod(connection, connection.namespace, name)}"
    )


def start(cluster: Cluster, namespace: str, name: str, script: str, **main: Any) -> None:
    spec = hardened_pod_spec(cluster.shell_image, script)
    spec["containers"][0] |= main
    cluster.apply(pod(name, spec), namespace)


def web_pod(cluster: Cluster, name: str) -> dict[str, Any]:
    spec = hardened_pod_spec(cluster.shell_image, WEB)
    probe = {"httpGet": {"path": "/digest", "port": 8080}, "periodSeconds": 1}
    ports = [{"name": "web", "containerPort": 8080}]
    spec["containers"][0] |= {"ports": ports, "readinessProbe": probe}
    made = pod(name, spec)
    made["metadata"]["labels"] = {"app": "web"}
    return made


def service(name: str = "web", port: int = 80) -> dict[str, Any]:
    ports = [{"port": port, "targetPort": "web"}]
    spec = {"selector": {"app": "web"}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def web(cluster: Cluster, namespace: str) -> str:
    """Name of a Service with one ready pod, ``web-1``."""
    cluster.apply([service(), web_pod(cluster, "web-1")], namespace)
    cluster.wait("condition=Ready", "pod/web-1", namespace=namespace)
    return "web"


def test_a_pods_life_is_seen(cluster: Cluster, namespace: str, connection: Connection) -> None:
    with watch_pods(connection, namespace, "app=job") as watching:
        while not watching.is_synced:
            assert watching.get(timeout_seconds=0.1) is None
        start(cluster, namespace, "job", "sleep 1; exit 3")
        phases: list[str] = []
        for change in watching:
            if change.item.phase not in phases[-1:]:
                phases.append(change.item.phase)
            if change.item.is_finished:
                break
        assert phases == ["Pending", "Running", "Failed"]
        assert change.item.failure == "main: Error (exit code 3)"
        cluster.kubectl("delete", "pod", "job", f"--namespace={namespace}", "--wait=false")
        kinds = iter(lambda: watching.get(timeout_seconds=60.0).kind, "deleted")
        assert set(kinds) <= {"modified"}
    events = events_of(connection, change.item)
    assert [e.reason for e in events] == ["Scheduled", "Pulled", "Created", "Started"]


def test_why_pods_do_not_start(cluster: Cluster, namespace: str, connection: Connection) -> None:
    start(cluster, namespace, "image", "true", image="no.such/image:1", imagePullPolicy="Never")
    reference = {"secretKeyRef": {"name": "no-such", "key": "k"}}
    start(cluster, namespace, "secret", "true", env=[{"name": "A", "valueFrom": reference}])
    gpus = {"limits": {"nvidia.com/gpu": "64"}}
    start(cluster, namespace, "gpus", "true", resources=gpus)
    for name, words in {
        "image": ("main: ErrImageNeverPull",),
        "secret": ("main: CreateContainerConfigError", "no-such"),
        "gpus": ("Unschedulable", "nvidia.com/gpu"),
    }.items():
        obstacle = wait_for(connection, name, lambda view: view.obstacle).obstacle
        assert all(word in obstacle for word in words), obstacle
    warnings = [e for e in events_of(connection, get_pod(connection, namespace, "secret"))
                if e.is_warning]  # fmt: skip
    assert "no-such" in warnings[-1].message


def test_memory_that_ran_out(cluster: Cluster, namespace: str, connection: Connection) -> None:
    limits = {"limits": {"memory": "16Mi"}}
    start(cluster, namespace, "eater", "tail /dev/zero", resources=limits)
    ended = wait_for(connection, "eater", lambda view: view.is_finished)
    assert ended.failure == "main: OOMKilled (exit code 137)"


def test_a_log_is_followed_from_before_the_start(
    cluster: Cluster, namespace: str, connection: Connection
) -> None:
    script = "for i in $(seq 300); do echo line $i; done; sleep 1; printf 'caf\\351 no end'; exit 1"
    starter = threading.Timer(1.0, start, (cluster, namespace, "talker", script))
    gate = hardened_pod_spec("no.such/image:1", "true")
    gate["containers"][0]["imagePullPolicy"] = "Never"
    cluster.apply(pod("never", gate), namespace)
    starter.start()
    with pytest.raises(ObjectNotFound):
        list(read_log(connection, namespace, "talker", "main", follow=True))
    starter.join()
    lines = list(read_log(connection, namespace, "talker", "main", follow=True))
    assert [line.text for line in lines[:-1]] == [f"line {n}" for n in range(1, 301)]
    assert lines[-1].text == "caf\ufffd no end"
    assert abs(lines[0].at - time.time()) < WAIT_SECONDS
    tail = list(read_log(connection, namespace, "talker", "main", tail=2))
    assert [line.text for line in tail] == ["line 300", lines[-1].text]
    assert list(read_log(connection, namespace, "never", "main")) == []
    with pytest.raises(ObjectRejected, match="other"):
        list(read_log(connection, namespace, "talker", "other"))


def test_a_quota_is_told_in_the_servers_words(cluster: Cluster, connection: Connection) -> None:
    namespace = connection.namespace
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-pods"}}
    cluster.apply({**quota, "spec": {"hard": {"pods": "0"}}}, namespace)
    cluster.wait("jsonpath={.status.hard.pods}=0", "quota/no-pods", namespace=namespace)
    body = pod("a", hardened_pod_spec(cluster.shell_image, "true"))
    path = path_of("v1", "pods", namespace=namespace)
    with pytest.raises(ObjectRejected, match="exceeded quota: no-pods"):
        connection.create("start a", path, body)
    del body["spec"]["containers"]
    with pytest.raises(ObjectRejected, match=r"spec\.containers: Required"):
        connection.create("start a", path, body)


def test_who_is_not_let_in(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    raw = cluster.kubectl("config", "view", "--raw", "--minify", "--flatten")
    bad = tmp_path / "kubeconfig"
    lines = [line for line in raw.splitlines() if "client-" not in line]
    bad.write_text("\n".join(lines).replace("user: {}", "") + "\n    token: not-a-token\n")
    spec = KubernetesSpec(kubeconfig=str(bad))
    with pytest.raises(UserError, match="Log in again"):
        connect(spec, patience=Patience(budget_seconds=1.0)).get("list pods", "/api/v1/pods")


def test_forward(web: str, namespace: str, connection: Connection) -> None:
    def read(path: str) -> bytes:
        with urllib.request.urlopen(f"http://{local.address}/{path}", timeout=60) as answer:
            return answer.read()

    with forward(connection, namespace, web, 80) as local:
        assert read("name") == b"web-1\n"
        digest = read("digest").decode().strip()
        with ThreadPoolExecutor(12) as pool:
            for data in pool.map(read, ["big"] * 12):
                assert hashlib.sha256(data).hexdigest() == digest
    with pytest.raises(OSError, match="refused"):
        read("name")
    deadline = time.monotonic() + 10.0
    while any("port-forward" in t.name or "pod web-1" in t.name for t in threading.enumerate()):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.1)


def test_a_forward_outlives_its_pod(
    cluster: Cluster, web: str, namespace: str, connection: Connection
) -> None:
    with forward(connection, namespace, web, 80) as local:
        held = socket.create_connection(("127.0.0.1", local.port), timeout=60)
        held.sendall(b"GET /name HTTP/1.0\r\n")  # not all of it: the server waits for more
        cluster.apply(web_pod(cluster, "web-2"), namespace)
        cluster.wait("condition=Ready", "pod/web-2", namespace=namespace)
        cluster.kubectl("delete", "pod", "web-1", f"--namespace={namespace}")
        assert held.recv(100) == b""
        held.close()
        with urllib.request.urlopen(f"http://{local.address}/name", timeout=60) as answer:
            assert answer.read() == b"web-2\n"


def test_forwards_that_cannot_be(cluster: Cluster, namespace: str, connection: Connection) -> None:
    with pytest.raises(ObjectNotFound), forward(connection, namespace, "web", 80):
        pass
    cluster.apply(service(), namespace)
    for port, error, said in (
        (80, ClusterUnavailable, "no pod is ready"),
        (81, ObjectNotFound, "no port 81"),
    ):
        with pytest.raises(error, match=said), forward(connection, namespace, "web", port):
            pass


def test_kfp_by_forward_and_by_proxy(
    cluster: Cluster, web: str, namespace: str, connection: Connection
) -> None:
    for way in ("port-forward", "service-proxy"):
        document = context(cluster, namespace, {"access": way, "namespace": namespace,
                                                "service": web, "port": 80})  # fmt: skip
        [finding] = kfp(Site(document, connection))
        assert (finding.passed, finding.detail) == (True, f"2.17.0, single-user, by {way}")
        with kfp_access(document, connection) as access:
            assert access.verify


def context(cluster: Cluster, namespace: str, api: dict[str, Any]) -> ContextDocument:
    return ContextDocument.model_validate({
        "apiVersion": "crucible/v1",
        "kind": "Context",
        "metadata": {"name": "test"},
        "kubernetes": {"namespace": namespace, "kubeconfig": str(cluster.kubeconfig)},
        "pipelines": {"api": api},
        "store": {"uri": "s3://bucket", "endpoint": "http://127.0.0.1:9"},
        "images": {"base": f"registry/base@sha256:{'0' * 64}"},
    })  # fmt: skip


def test_rights_of_a_service_account(cluster: Cluster, namespace: str, connection) -> None:
    cluster.kubectl("create", "serviceaccount", "jane", f"--namespace={namespace}")
    rights = [Right("list", "pods", namespace), Right("get", "pods/log", namespace),
              Right("get", "secrets", namespace, "one"), Right("list", "nodes")]  # fmt: skip
    user = f"system:serviceaccount:{namespace}:jane"
    with connected(cluster.account_kubeconfig("jane", namespace), namespace) as jane:
        with pytest.raises(ClusterRefused, match=f"user '{user}' may not list pods"):
            jane.items("list pods", path_of("v1", "pods", namespace=namespace))
        assert not any(verdict.is_allowed for verdict in check_rights(jane, rights))
        assert secrets_finding(jane, namespace, "jane").reads_all is None
        assert secrets_finding(connection, namespace, "jane").reads_all is False
        role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
                "metadata": {"name": "reader"}, "rules": [
                    {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["*"]},
                    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"],
                     "resourceNames": ["one"]}]}  # fmt: skip
        cluster.apply(role, namespace)
        account = f"--serviceaccount={namespace}:jane"
        where = f"--namespace={namespace}"
        cluster.kubectl("create", "rolebinding", "reader", "--role=reader", account, where)
        allowed = [v.is_allowed for v in check_rights(jane, rights)]
        assert allowed == [True, True, True, False]
        assert secrets_finding(connection, namespace, "jane").reads_all is False
        role["rules"][1].pop("resourceNames")
        role["rules"].append({"apiGroups": ["rbac.authorization.k8s.io"], "verbs": ["get", "list"],
                              "resources": ["roles", "rolebindings"]})  # fmt: skip
        cluster.apply(role, namespace)
        assert secrets_finding(connection, namespace, "jane").reads_all is True
        assert secrets_finding(jane, namespace, "jane").reads_all is True


def test_pools_of_simulated_gpu_nodes(own_cluster: OwnCluster, connection: Connection) -> None:
    name = f"gpu-{secrets.token_hex(3)}"
    pool = PoolSpec(
        node_selector={"crucible.dev/pool": name},
        tolerations=[TolerationSpec(key="kwok.x-k8s.io/node", operator="Exists")],
    )

    def report(gpus: int, num_nodes: int = 1) -> str:
        view = pool_view(connection, name, pool)
        return placement_report(view, PlacementRequest(gpus=gpus, num_nodes=num_nodes)).text

    assert report(8) == f"no node carries crucible.dev/pool={name}"
    labels = {"crucible.dev/pool": name}
    nodes = own_cluster.add_nodes(2, prefix=name, labels=labels)
    assert report(8, 2) == f"2 nodes of pool {name} have 8 GPUs free"
    for pod_name, gpus in (("whole", 8), ("half", 4)):
        spec = hardened_pod_spec(own_cluster.shell_image, "sleep 1000")
        spec["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
        spec |= {"nodeSelector": labels, "tolerations": [{"operator": "Exists"}]}
        own_cluster.apply(pod(pod_name, spec), connection.namespace)
        wait_for(connection, pod_name, lambda view: view.node)
    expected = f"no node of pool {name} has 8 GPUs free: 2 nodes, 8 GPUs each, 12 in use"
    assert report(8) == expected
    assert report(4) == f"1 node of pool {name} has 4 GPUs free"
    own_cluster.kubectl("cordon", *nodes)
    assert "2 cordoned" in report(4)
    own_cluster.kubectl("delete", "node", *nodes)


def test_doctor(cluster: Cluster, namespace: str, web: str) -> None:
    cluster.kubectl("create", "serviceaccount", "crucible-runner", f"--namespace={namespace}")
    api = {"access": "port-forward", "namespace": namespace, "service": web, "port": 80}
    keys = {"AWS_ACCESS_KEY_ID": "i", "AWS_SECRET_ACCESS_KEY": "k"}
    started = time.monotonic()
    found = {f.name: f for f in cluster_findings(context(cluster, namespace, api), keys)}
    assert time.monotonic() - started < 30.0
    assert {name for name, f in found.items() if not f.passed} == {"service account", "store"}
    assert cluster.server in found["kubernetes"].detail
    assert found["kfp"].detail.startswith("2.17.0")
    assert "usable" in found["pool cpu"].detail
