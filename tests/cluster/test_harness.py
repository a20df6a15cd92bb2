"""The cluster that tests get is a real one.

What it is when parts of it die is in test_faults.py.
"""

from __future__ import annotations

import http.server
import json
import threading
import time
from typing import Any

import pytest
import urllib3

from crucible.testing.cluster import Cluster, ClusterFailed, OwnCluster, hardened_pod_spec, job, pod
from crucible.testing.cluster.simulated import EXIT_CODE_ANNOTATION, RUN_FOR_ANNOTATION

TOLERATION = {"key": "kwok.x-k8s.io/node", "operator": "Exists"}


def gpu_spec(*tolerations: dict[str, str]) -> dict[str, Any]:
    spec = hardened_pod_spec("registry.invalid/trainer:1", "train")
    spec["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "8"}}
    return {**spec, "tolerations": list(tolerations)}


def serve(cluster: Cluster, namespace: str, name: str, text: str) -> None:
    """A Service of that name on port 80, before a pod that answers ``text``."""
    script = f"echo {text} > /tmp/index.html && httpd -f -p 8080 -h /tmp"
    spec = hardened_pod_spec(cluster.shell_image, script)
    spec["containers"][0]["readinessProbe"] = {
        "httpGet": {"port": 8080, "path": "/index.html"},
        "periodSeconds": 1,
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    cluster.apply([pod(name, spec), service], namespace)
    cluster.wait("condition=Ready", f"pod/{name}", namespace=namespace)


def test_the_api_server_and_a_node_are_ready(cluster: Cluster) -> None:
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"
    nodes = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    ready = [
        entry["status"]
        for node in nodes
        for entry in node["status"]["conditions"]
        if entry["type"] == "Ready"
    ]
    assert "True" in ready


def test_a_hardened_job_runs_and_its_logs_come_back(cluster: Cluster, namespace: str) -> None:
    script = "id -u; touch /file 2>&1; grep -E 'CapEff|Seccomp:' /proc/self/status"
    cluster.apply(job("hardened", hardened_pod_spec(cluster.shell_image, script)), namespace)
    cluster.wait("condition=Complete", "job/hardened", namespace=namespace)
    logs = cluster.kubectl("logs", "job/hardened", f"--namespace={namespace}").split()
    assert logs[0] == "65532"
    assert "Read-only" in logs
    assert logs[-4:] == ["CapEff:", "0000000000000000", "Seccomp:", "2"]


def test_a_pod_with_too_many_rights_is_refused(cluster: Cluster, namespace: str) -> None:
    spec = hardened_pod_spec(cluster.shell_image, "true")
    spec["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(ClusterFailed, match="violates PodSecurity"):
        cluster.apply(pod("privileged", spec), namespace)


def test_a_service_name_resolves_and_answers_in_a_pod(cluster: Cluster, namespace: str) -> None:
    serve(cluster, namespace, "web", "hello")
    # A ready pod takes a moment to become an answer of DNS and a rule of the firewall; without
    # the rule a connection goes nowhere, for minutes, unless the try has an end.
    for name, host in {"short": "web", "full": f"web.{namespace}.svc.cluster.local"}.items():
        script = f"until timeout 1 wget -qO- http://{host} 2>/dev/null; do sleep 0.2; done"
        assert cluster.run_pod(script, namespace, name) == "hello\n"


def test_a_service_answers_this_machine(own_cluster: OwnCluster, namespace: str) -> None:
    serve(own_cluster, namespace, "web", "hello")
    address = own_cluster.get("service", "web", namespace)["spec"]["clusterIP"]
    # Until the firewall has the rule, packets go nowhere: each try is to end soon.
    tries = urllib3.Retry(connect=60, backoff_factor=0.1, backoff_max=1.0)
    with urllib3.PoolManager(retries=tries, timeout=1.0) as pool:
        assert pool.request("GET", f"http://{address}").data == b"hello\n"


def test_a_pod_uses_the_api_with_its_account(cluster: Cluster, namespace: str) -> None:
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    script = (
        f'wget -qO- --no-check-certificate --header "Authorization: Bearer $(cat {folder}/token)" '
        "https://kubernetes.default/apis/authentication.k8s.io/v1 && cat " + f"{folder}/namespace"
    )
    said = cluster.run_pod(script, namespace)
    assert "SelfSubjectReview" in said
    assert said.endswith(namespace)


def test_pods_reach_a_server_of_this_machine(own_cluster: OwnCluster, namespace: str) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from outside")

        def log_message(self, *_: Any) -> None: ...

    with http.server.HTTPServer((own_cluster.gateway, 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://{own_cluster.host_name}:{server.server_port}"
            assert own_cluster.run_pod(f"wget -qO- {address}", namespace) == "from outside"
        finally:
            server.shutdown()
            thread.join()


def test_a_claimed_volume_outlives_its_pod(cluster: Cluster, namespace: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    cluster.apply(claim, namespace)
    for name, script in (("writer", "echo kept > /tmp/file"), ("reader", "cat /tmp/file")):
        spec = hardened_pod_spec(cluster.shell_image, script)
        spec["volumes"] = [{"name": "tmp", "persistentVolumeClaim": {"claimName": "data"}}]
        spec["securityContext"] = {**spec["securityContext"], "fsGroup": 65532}
        cluster.apply(pod(name, spec), namespace)
        done = "jsonpath={.status.phase}=Succeeded"
        cluster.wait(done, f"pod/{name}", namespace=namespace)
    assert cluster.kubectl("logs", "reader", f"--namespace={namespace}") == "kept\n"


def test_commands_run_in_a_pod(cluster: Cluster, namespace: str) -> None:
    cluster.apply(pod("idle", hardened_pod_spec(cluster.shell_image, "sleep 1000")), namespace)
    cluster.wait("condition=Ready", "pod/idle", namespace=namespace)
    where = f"--namespace={namespace}"
    assert cluster.kubectl("exec", "idle", where, "-i", "--", "cat", text="said") == "said"


def test_an_image_brings_files_of_a_test(own_cluster: OwnCluster, namespace: str) -> None:
    image = own_cluster.add_image(
        "localhost/greeter:1", {"/app/greet": b"#!/bin/sh\necho greetings from $0\n"}
    )
    assert image == "localhost/greeter:1"
    own_cluster.apply(pod("greeter", hardened_pod_spec(image, "/app/greet")), namespace)
    done = "jsonpath={.status.phase}=Succeeded"
    own_cluster.wait(done, "pod/greeter", namespace=namespace)
    said = own_cluster.kubectl("logs", "greeter", f"--namespace={namespace}")
    assert said == "greetings from /app/greet\n"


def test_only_who_tolerates_it_gets_a_simulated_gpu_node(
    own_cluster: OwnCluster, namespace: str
) -> None:
    names = own_cluster.add_nodes(2, labels={"zone": "a"})
    own_cluster.apply(pod("stays-out", gpu_spec()), namespace)
    own_cluster.apply(pod("gets-in", gpu_spec(TOLERATION)), namespace)
    running = "jsonpath={.status.phase}=Running"
    own_cluster.wait(running, "pod/gets-in", namespace=namespace)
    assert own_cluster.get("pod", "gets-in", namespace)["spec"]["nodeName"] in names
    own_cluster.wait("condition=PodScheduled=False", "pod/stays-out", namespace=namespace)
    [condition] = own_cluster.get("pod", "stays-out", namespace)["status"]["conditions"]
    assert "untolerated taint" in condition["message"]


@pytest.mark.parametrize(("code", "end"), [("0", "Complete"), ("3", "Failed")])
def test_simulated_pods_of_jobs_end_as_they_are_told(
    own_cluster: OwnCluster, namespace: str, code: str, end: str
) -> None:
    own_cluster.add_nodes(2)
    own_cluster.apply(job("train", gpu_spec(TOLERATION), {EXIT_CODE_ANNOTATION: code}), namespace)
    own_cluster.wait(f"condition={end}", "job/train", namespace=namespace)


def test_simulated_pods_of_jobs_run_as_long_as_they_are_told(
    own_cluster: OwnCluster, namespace: str
) -> None:
    own_cluster.add_nodes(2)
    own_cluster.apply(job("train", gpu_spec(TOLERATION), {RUN_FOR_ANNOTATION: "1h"}), namespace)
    own_cluster.wait("jsonpath={.status.ready}=1", "job/train", namespace=namespace)
    time.sleep(3.0)
    assert own_cluster.get("job", "train", namespace)["status"]["active"] == 1


def test_a_user_may_do_what_was_granted(own_cluster: OwnCluster, namespace: str) -> None:
    path = own_cluster.user_kubeconfig("ada", ["researchers"])
    ada = own_cluster.with_kubeconfig(path)
    with pytest.raises(ClusterFailed, match='User "ada" cannot list resource "pods"'):
        ada.kubectl("get", "pods", f"--namespace={namespace}")
    own_cluster.kubectl(
        "create", "rolebinding", "readers", "--clusterrole=view", "--group=researchers",
        f"--namespace={namespace}",
    )  # fmt: skip
    assert ada.kubectl("get", "pods", f"--namespace={namespace}") == ""


def test_a_kubeconfig_of_an_account_is_that_account(cluster: Cluster, namespace: str) -> None:
    path = cluster.account_kubeconfig("default", namespace)
    account = cluster.with_kubeconfig(path)
    said = json.loads(account.kubectl("auth", "whoami", "-o", "json"))
    name = f"system:serviceaccount:{namespace}:default"
    assert said["status"]["userInfo"]["username"] == name
