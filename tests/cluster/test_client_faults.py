"""The clients of `crucible.cluster` while a real API server and kubelet are killed and mended."""

from __future__ import annotations

import contextlib
import http.client
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from crucible.cluster import Connection, Patience, connect
from crucible.cluster.forward import forward
from crucible.cluster.paths import path_of
from crucible.cluster.pod_log import read_log
from crucible.cluster.pods import watch_pods
from crucible.cluster.watch import Watch
from crucible.errors import ClusterUnavailable, ObjectConflict, VersionGone
from crucible.specs.context import KubernetesSpec
from crucible.testing.cluster import OwnCluster, hardened_pod_spec, pod

WEB = "mkdir /tmp/www; hostname > /tmp/www/name; exec httpd -f -p 8080 -h /tmp/www"


@pytest.fixture
def connection(own_cluster: OwnCluster, namespace: str) -> Iterator[Connection]:
    spec = KubernetesSpec(kubeconfig=str(own_cluster.kubeconfig), namespace=namespace)
    made = connect(spec, patience=Patience(budget_seconds=90.0))
    yield made
    made.close()


def start(own_cluster: OwnCluster, namespace: str, name: str, script: str) -> None:
    own_cluster.apply(pod(name, hardened_pod_spec(own_cluster.shell_image, script)), namespace)


def retried(action: Callable[[], object]) -> None:
    """Until it works: an API server that has just started still learns its rights."""
    deadline = time.monotonic() + 60.0
    while True:
        try:
            action()
            return
        except Exception:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def bounce(own_cluster: OwnCluster, part: str, *, away_seconds: float) -> None:
    own_cluster.kill(part)
    time.sleep(away_seconds)
    own_cluster.restart(part)


@pytest.mark.parametrize("part", ["kube-apiserver", "kubelet", "etcd"])
def test_a_log_is_told_once_while_a_part_dies(
    own_cluster: OwnCluster, namespace: str, connection: Connection, part: str
) -> None:
    count = 1500
    script = f"i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); usleep 10000; done"
    start(own_cluster, namespace, "talker", f"{script}; printf last; exit 3")
    seen: list[str] = []

    def read() -> None:
        for line in read_log(connection, namespace, "talker", "main", follow=True):
            seen.append(line.text)

    reader = threading.Thread(target=read)
    own_cluster.wait("condition=Ready", "pod/talker", namespace=namespace)
    reader.start()
    while len(seen) < 100:
        time.sleep(0.05)
    bounce(own_cluster, part, away_seconds=2.0)
    reader.join(120.0)
    assert not reader.is_alive()
    assert seen == [*(f"line {n}" for n in range(count)), "last"]


def test_a_watch_tells_everything_once_while_the_api_server_dies(
    own_cluster: OwnCluster, namespace: str, connection: Connection
) -> None:
    own_cluster.kubectl("create", "configmap", "counter", f"--namespace={namespace}")
    path = path_of("v1", "configmaps", namespace=namespace)
    selected = {"fieldSelector": "metadata.name=counter"}
    writer = Connection(lambda: connection.identity, namespace, Patience(budget_seconds=90.0))
    versions: list[str] = []

    def write() -> None:
        for number in range(150):
            body = {"data": {"n": str(number)}}
            made = writer.request("count", "PATCH", f"{path}/counter", body=body)
            versions.append(made["metadata"]["resourceVersion"])
            time.sleep(0.05)

    told: list[str] = []
    watching = Watch(connection, "watch it", path, selected, view=lambda item: item)
    counter = threading.Thread(target=write)
    with watching:
        assert watching.get(timeout_seconds=30.0).kind == "added"
        counter.start()
        time.sleep(2.0)
        bounce(own_cluster, "kube-apiserver", away_seconds=1.0)
        counter.join()
        while versions[-1] not in told:
            change = watching.get(timeout_seconds=60.0)
            assert change is not None, "the last change was not told"
            assert change.kind == "modified"
            told.append(change.item["metadata"]["resourceVersion"])
    writer.close()
    assert len(told) == len(set(told))
    assert told == [version for version in versions if version in set(told)]
    values = [int(version) for version in told]
    assert values == sorted(values)


def test_a_pod_that_goes_after_a_restart_is_told(
    own_cluster: OwnCluster, namespace: str, connection: Connection
) -> None:
    start(own_cluster, namespace, "goes", "sleep 1000")
    start(own_cluster, namespace, "stays", "sleep 1000")
    with watch_pods(connection, namespace) as watching:
        there = {}
        while {"goes", "stays"} != {name for name, phase in there.items() if phase == "Running"}:
            change = watching.get(timeout_seconds=60.0)
            there[change.item.name] = change.item.phase
        bounce(own_cluster, "kube-apiserver", away_seconds=0.5)
        delete = ("delete", "pod", "goes", f"--namespace={namespace}", "--wait=false")
        retried(lambda: own_cluster.kubectl(*delete, "--ignore-not-found"))
        gone = []
        while not gone:
            change = watching.get(timeout_seconds=60.0)
            assert change is not None
            if change.kind == "deleted":
                gone.append(change.item.name)
        assert gone == ["goes"]


def test_a_version_that_was_forgotten(own_cluster: OwnCluster, connection: Connection) -> None:
    """An API server that has just started remembers nothing from before."""
    own_cluster.restart("kube-apiserver")
    path = path_of("v1", "pods", namespace=connection.namespace)
    watching = Watch(connection, "watch pods", path, view=lambda item: item)
    with pytest.raises(VersionGone):
        watching._follow("1")


def test_a_create_during_a_restart_happens_once(
    own_cluster: OwnCluster, namespace: str, connection: Connection
) -> None:
    path = path_of("v1", "configmaps", namespace=namespace)
    names = [f"made-{number:03d}" for number in range(120)]
    refused = []

    def create() -> None:
        for name in names:
            try:
                connection.create(f"create {name}", path, {"metadata": {"name": name}})
            except ObjectConflict:
                refused.append(name)
            time.sleep(0.02)

    creator = threading.Thread(target=create)
    creator.start()
    time.sleep(1.0)
    bounce(own_cluster, "kube-apiserver", away_seconds=1.0)
    creator.join()
    items, _ = connection.items("list them", path)
    made = [item["metadata"]["name"] for item in items]
    assert [name for name in made if name in set(names)] == names
    assert refused == [], "its own object is no conflict"


def test_a_server_that_does_not_answer(own_cluster: OwnCluster, connection: Connection) -> None:
    hurried = connection.with_patience(Patience(2.0, 1.0, 1.0))
    assert hurried.get("ask", "/version")
    own_cluster.signal("kube-apiserver", signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(ClusterUnavailable, match="Tried"):
            hurried.get("ask", "/version")
        assert time.monotonic() - started < 15.0
    finally:
        own_cluster.signal("kube-apiserver", signal.SIGCONT)
    assert connection.get("ask", "/version")


def test_a_forward_outlives_the_api_server(
    own_cluster: OwnCluster, namespace: str, connection: Connection
) -> None:
    made = pod("web", hardened_pod_spec(own_cluster.shell_image, WEB))
    probe = {"httpGet": {"path": "/name", "port": 8080}, "periodSeconds": 1}
    made["spec"]["containers"][0]["readinessProbe"] = probe
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}
    own_cluster.apply([service, made], namespace)
    own_cluster.wait("condition=Ready", "pod/web", namespace=namespace)
    with forward(connection, namespace, "web", 80) as local:
        url = f"http://{local.address}/name"
        for _ in range(2):
            with urllib.request.urlopen(url, timeout=90) as answer:
                assert answer.read() == b"web\n"
            bounce(own_cluster, "kube-apiserver", away_seconds=0.5)
        with contextlib.suppress(http.client.HTTPException, OSError):
            urllib.request.urlopen(url, timeout=90).close()
        with urllib.request.urlopen(url, timeout=90) as answer:
            assert answer.read() == b"web\n"
