"""What `doctor` finds in a cluster, sound and not, and that no check raises."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from crucible.cluster.checks import cluster_findings
from crucible.cluster.finding import Finding
from crucible.specs.context import ContextDocument
from crucible.testing.kube_api import Fault
from crucible.testing.object_store import ObjectStore, object_store

DEPLOYMENTS = "/apis/apps/v1/namespaces/kubeflow/deployments"
CONFIG_MAPS = "/api/v1/namespaces/kubeflow/configmaps"


@pytest.fixture(scope="module")
def s3() -> Iterator[ObjectStore]:
    with object_store() as running:
        running.make_bucket("bucket")
        yield running


def context(api, kubeconfig: Path, **fields: object) -> ContextDocument:
    proxy = "/api/v1/namespaces/kubeflow/services/http:ml-pipeline:8888/proxy"
    return ContextDocument.model_validate({
        "apiVersion": "crucible/v1",
        "kind": "Context",
        "metadata": {"name": "dev"},
        "kubernetes": {"namespace": "runs", "kubeconfig": str(kubeconfig)},
        "pipelines": {"api": {"access": "url", "url": f"{api.url}{proxy}"}},
        "store": {"uri": "s3://bucket/prefix", "endpoint": "http://127.0.0.1:9"},
        "mlflow": {"uri": f"{api.url}/mlflow"},
        "images": {"base": f"registry/base@sha256:{'0' * 64}"},
        **fields,
    })  # fmt: skip


@pytest.fixture
def sound(api):
    """A cluster in which nothing is amiss."""
    proxy = "/api/v1/namespaces/kubeflow/services/http:ml-pipeline:8888/proxy"
    api.documents |= {
        "/version": {"gitVersion": "v1.34.4"},
        f"{proxy}/apis/v2beta1/healthz": {"tag_name": "2.17.0", "multi_user": False},
        "/mlflow/version": "3.17.2",
    }
    api.put("/api/v1/namespaces", {"metadata": {"name": "runs"}})
    for name in ("crucible-runner", "crucible-launcher"):
        api.put("/api/v1/namespaces/runs/serviceaccounts", {"metadata": {"name": name}})
    set_requeue(api, "1s")
    set_defaults(api, '{limit: "0", retryPolicy: Always}')
    api.may = lambda spec: "user" not in spec
    put_node(api)
    return api


def set_defaults(api, retry: str | None) -> None:
    text = "" if retry is None else f"spec: {{templateDefaults: {{retryStrategy: {retry}}}}}"
    data = {"workflowDefaults": text}
    api.put(CONFIG_MAPS, {"metadata": {"name": "workflow-controller-configmap"}, "data": data})


def set_requeue(api, value: str | None) -> None:
    env = [] if value is None else [{"name": "DEFAULT_REQUEUE_TIME", "value": value}]
    spec = {"template": {"spec": {"containers": [{"name": "controller", "env": env}]}}}
    api.put(DEPLOYMENTS, {"metadata": {"name": "workflow-controller"}, "spec": spec})


def put_node(api, *, ready: bool = True, gpus: str = "8") -> None:
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    allocatable = {"cpu": "8", "nvidia.com/gpu": gpus}
    api.put("/api/v1/nodes", {
        "metadata": {"name": "n1", "labels": {"crucible.dev/pool": "gpu-train"}},
        "status": {"conditions": [condition], "allocatable": allocatable},
    })  # fmt: skip


@pytest.fixture
def findings(api, s3, connect_to, tmp_path):
    def look(**fields: object) -> dict[str, Finding]:
        connect_to(api.url)
        store = {"uri": "s3://bucket/prefix", "endpoint": s3.endpoint}
        document = context(api, tmp_path / "kubeconfig", **{"store": store, **fields})
        return {finding.name: finding for finding in cluster_findings(document, s3.environ)}

    return look


def test_a_sound_cluster(sound, findings) -> None:
    found = findings()
    assert [f for f in found.values() if not f.passed] == []
    details = {name: finding.detail for name, finding in found.items()}
    assert details["kubernetes"].startswith(f"v1.34.4 at {sound.url}, context 'here' of ")
    assert details["kfp"] == "2.17.0, single-user, by url"
    assert details["argo requeue time"] == "1s"
    assert details["pool gpu-train"] == "1 nodes, 1 usable, 8 GPUs, 0 in use"
    advice = {name for name, finding in found.items() if finding.passed and finding.fix}
    assert advice == {"trainer"}


def test_a_store_that_does_not_answer_and_one_without_the_bucket(sound, s3, findings) -> None:
    found = findings(store={"uri": "s3://bucket", "endpoint": "http://127.0.0.1:9"})["store"]
    assert (found.passed, bool(found.fix)) == (False, True)
    found = findings(store={"uri": "s3://none", "endpoint": s3.endpoint})["store"]
    assert "there is no bucket 'none'" in found.detail


def test_nothing_at_all_answers(api, tmp_path) -> None:
    document = context(api, tmp_path / "no-such-kubeconfig")
    found = {f.name: f for f in cluster_findings(document, {})}
    assert all(finding.fix for finding in found.values() if not finding.passed)
    assert not found["kubernetes"].passed
    assert "there is no such file" in found["kubernetes"].detail
    assert found.keys() == {"kubernetes", "kfp", "store", "mlflow", "others"}
    assert "rights" in found["others"].detail


def test_a_namespace_that_is_not_there(sound, findings) -> None:
    sound.remove("/api/v1/namespaces", "runs")
    found = findings()["namespace"]
    assert (found.passed, found.detail) == (False, "there is no namespace runs")
    sound.denied = ["get v1/namespaces"]
    assert findings()["namespace"].passed


def test_missing_rights_name_the_role(sound, findings) -> None:
    sound.may = lambda spec: spec["resourceAttributes"].get("subresource") != "log"
    found = findings()["rights"]
    assert not found.passed
    assert found.detail == "may not get pods/log in namespace runs"
    assert "crucible-submitter in namespace runs" in found.fix


def test_rights_to_forward_are_asked_for_where_forwards_go(sound, findings) -> None:
    sound.may = lambda spec: spec["resourceAttributes"].get("subresource") != "portforward"
    store = {"uri": "s3://b", "endpoint": "http://s:1", "forward": {"service": "s", "port": 1}}
    found = findings(store=store)["rights"]
    assert "crucible-port-forward in namespace crucible-system" in found.fix


def test_accounts_that_are_not_there(sound, findings) -> None:
    sound.remove("/api/v1/namespaces/runs/serviceaccounts", "crucible-launcher")
    found = findings()["service account"]
    assert not found.passed
    assert "crucible-launcher" in found.detail


def test_a_runner_that_reads_every_secret(sound, findings) -> None:
    sound.may = lambda spec: True
    found = findings()["runner role"]
    assert found.passed
    assert "get secrets in namespace runs" in found.detail
    assert "manifests/base/run" in found.fix


def test_argo_as_it_comes(sound, findings) -> None:
    set_requeue(sound, None)
    set_defaults(sound, '{limit: "2", retryPolicy: OnError}')
    found = findings()
    assert found["argo requeue time"].detail.startswith("10 s, the default")
    assert "DEFAULT_REQUEUE_TIME=1s" in found["argo requeue time"].fix
    assert "OnError" in found["argo retries"].detail
    assert "templateDefaults" in found["argo retries"].fix
    set_defaults(sound, "{")
    assert not findings()["argo retries"].passed


@pytest.mark.parametrize(
    ("retry", "detail"),
    [
        (None, "a pod that fails is started again, one that is deleted (a drained node) is not"),
        ('{limit: "3", retryPolicy: Always}', "pods that ask for no retry, as the drivers'"),
    ],
)
def test_argo_that_could_retry_better(sound, findings, retry: str | None, detail: str) -> None:
    set_defaults(sound, retry)
    found = findings()["argo retries"]
    assert found.passed
    assert found.detail.startswith(detail)
    assert 'to {limit: "0", retryPolicy: Always}' in found.fix


def test_what_may_not_be_read_is_advice(sound, findings) -> None:
    sound.denied = [
        "get apps/v1/deployments", "get v1/configmaps", "list v1/nodes", "get v1/serviceaccounts",
    ]  # fmt: skip
    found = findings()
    for name in ("argo requeue time", "argo retries", "pools", "service account"):
        assert found[name].passed
        assert "cannot be read (403)" in found[name].detail
        assert found[name].fix


def test_kfp_that_asks_for_a_login(sound, findings) -> None:
    sound.faults.append(Fault("healthz", status=401, times=3))
    assert "Check the token" in findings()["kfp"].detail
    sound.faults.clear()
    sound.faults.append(Fault("healthz", status=302, times=3))
    assert not findings()["kfp"].passed


def test_kfp_that_is_a_login_page(sound, findings) -> None:
    path = next(path for path in sound.documents if path.endswith("healthz"))
    sound.documents[path] = "<html>log in</html>"
    found = findings()["kfp"]
    assert not found.passed
    assert "answers no JSON" in found.detail


def test_a_context_without_mlflow(sound, findings) -> None:
    assert "not tracked" in findings(mlflow=None)["mlflow"].detail


def test_an_mlflow_address_is_told_without_its_password(sound, findings) -> None:
    uri = sound.url.replace("://", "://user:hunter2@") + "/none"
    found = findings(mlflow={"uri": uri})["mlflow"]
    assert not found.passed
    assert "hunter2" not in json.dumps([found.detail, found.fix])


def test_pools(sound, findings) -> None:
    pools = {"gpu-big": {}, "gpu-train": {"queue": "gpus"}}
    found = findings(pools=pools)
    assert found["pool gpu-big"].passed
    assert found["pool gpu-big"].detail == "no node carries crucible.dev/pool=gpu-big"
    assert "kubectl label node" in found["pool gpu-big"].fix
    assert not found["queue"].passed
    assert "no Kueue" in found["queue"].detail
    put_node(sound, ready=False)
    found = findings(pools=pools)
    assert not found["pool gpu-train"].passed
    assert "not ready (n1)" in found["pool gpu-train"].detail
    put_node(sound, gpus="0")
    assert "device plugin" in findings()["pool gpu-train"].fix


def test_queues(sound, findings) -> None:
    sound.documents |= {
        "/apis/kueue.x-k8s.io": {"versions": [{"version": "v1beta2"}]},
        "/apis/kueue.x-k8s.io/v1beta2": {"resources": [{"name": "localqueues"}]},
    }
    pools = {"gpu-train": {"queue": "gpus"}}
    assert "no LocalQueue gpus in namespace runs" in findings(pools=pools)["queue"].detail
    queues = "/apis/kueue.x-k8s.io/v1beta2/namespaces/runs/localqueues"
    sound.put(queues, {"metadata": {"name": "gpus"}})
    assert findings(pools=pools)["queue"].passed


def test_a_server_that_breaks_off_makes_findings_and_no_traceback(sound, findings) -> None:
    sound.faults.append(Fault("^/apis/", kind="lose-request", times=1_000_000))
    found = findings()
    assert {"rights", "trainer", "secrets", "argo"} <= {
        f.name for f in found.values() if not f.passed
    }
    assert all("Traceback" not in finding.detail for finding in found.values())


def test_a_fault_of_ours_is_a_finding_too(sound, findings) -> None:
    sound.documents["/version"] = "[]"
    found = findings()
    assert "kubernetes" in found
    assert not found["kubernetes"].passed


def test_slow_checks_run_at_the_same_time(sound, findings) -> None:
    slow = ("healthz", "mlflow", "deployments", "serviceaccounts", "nodes")
    sound.faults += [Fault(path, kind="stall", seconds=1.5) for path in slow]
    found = findings()
    assert sound.most_stalled >= 3
    assert sum(fault.times for fault in sound.faults) == 0
    assert [f for f in found.values() if not f.passed] == [], "each is tried again"
