"""The cluster that tests get is a real one, can be broken and mended, and leaves nothing behind."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from crucible.testing.cluster import Cluster, ClusterFailed, OwnCluster
from crucible.testing.cluster.parts import Part, PartSpec
from crucible.testing.cluster.slots import describe_live

HARDENED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
NON_ROOT = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
COMMAND = [sys.executable, "-m", "crucible.testing.cluster"]


def pod_spec(image: str, script: str, **extra: Any) -> dict[str, Any]:
    """A pod that passes the strictest of the pod security standards."""
    container = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "securityContext": HARDENED,
    }
    return {
        "containers": [container],
        "restartPolicy": "Never",
        "securityContext": NON_ROOT,
        "terminationGracePeriodSeconds": 1,
        **extra,
    }


def pod(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    labels = {"app": name}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }


def gpu_pod(name: str, **extra: Any) -> dict[str, Any]:
    spec = pod_spec("registry.invalid/trainer:1", "train", **extra)
    spec["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "8"}}
    return pod(name, spec)


def run(cluster: Cluster, namespace: str, name: str, script: str) -> str:
    """Run a script in a pod to its end; returns what it wrote."""
    cluster.apply(pod(name, pod_spec(cluster.shell_image, script)), namespace)
    cluster.wait("jsonpath={.status.phase}=Succeeded", f"pod/{name}", namespace=namespace)
    return cluster.kubectl("logs", name, f"--namespace={namespace}")


def serve(cluster: Cluster, namespace: str, name: str, text: str) -> None:
    """A Service of that name on port 80, before a pod that answers ``text``."""
    script = f"mkdir /tmp/www && echo {text} > /tmp/www/index.html && httpd -f -p 8080 -h /tmp/www"
    spec = pod_spec(cluster.shell_image, script, volumes=[{"name": "tmp", "emptyDir": {}}])
    spec["containers"][0]["volumeMounts"] = [{"name": "tmp", "mountPath": "/tmp"}]
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
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "hardened"},
        "spec": {"backoffLimit": 0, "template": {"spec": pod_spec(cluster.shell_image, script)}},
    }
    cluster.apply(job, namespace)
    cluster.wait("condition=Complete", "job/hardened", namespace=namespace)
    logs = cluster.kubectl("logs", "job/hardened", f"--namespace={namespace}").split()
    assert logs[0] == "65532"
    assert "Read-only" in logs
    assert logs[-4:] == ["CapEff:", "0000000000000000", "Seccomp:", "2"]


def test_a_pod_with_too_many_rights_is_refused(cluster: Cluster, namespace: str) -> None:
    spec = pod_spec(cluster.shell_image, "true")
    spec["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(ClusterFailed, match="violates PodSecurity"):
        cluster.apply(pod("privileged", spec), namespace)


def test_a_service_name_resolves_and_answers_in_a_pod(cluster: Cluster, namespace: str) -> None:
    serve(cluster, namespace, "web", "hello")
    assert run(cluster, namespace, "short", "wget -qO- http://web") == "hello\n"
    full = f"wget -qO- http://web.{namespace}.svc.cluster.local"
    assert run(cluster, namespace, "full", full) == "hello\n"


def test_a_service_answers_this_machine(own_cluster: OwnCluster, namespace: str) -> None:
    serve(own_cluster, namespace, "web", "hello")
    address = own_cluster.get("service", "web", namespace)["spec"]["clusterIP"]
    with urllib3.PoolManager(retries=False, timeout=5.0) as pool:
        assert pool.request("GET", f"http://{address}").data == b"hello\n"


def test_a_pod_uses_the_api_with_its_account(cluster: Cluster, namespace: str) -> None:
    folder = "/var/run/secrets/kubernetes.io/serviceaccount"
    script = (
        f'wget -qO- --no-check-certificate --header "Authorization: Bearer $(cat {folder}/token)" '
        "https://kubernetes.default/apis/authentication.k8s.io/v1 && cat " + f"{folder}/namespace"
    )
    said = run(cluster, namespace, "client", script)
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
            assert run(own_cluster, namespace, "caller", f"wget -qO- {address}") == "from outside"
        finally:
            server.shutdown()
            thread.join()


def test_commands_run_in_a_pod(cluster: Cluster, namespace: str) -> None:
    cluster.apply(pod("idle", pod_spec(cluster.shell_image, "sleep 1000")), namespace)
    cluster.wait("condition=Ready", "pod/idle", namespace=namespace)
    where = f"--namespace={namespace}"
    assert cluster.kubectl("exec", "idle", where, "-i", "--", "cat", text="said") == "said"


def test_an_image_brings_files_of_a_test(own_cluster: OwnCluster, namespace: str) -> None:
    image = own_cluster.add_image(
        "localhost/greeter:1", {"/app/greet": b"#!/bin/sh\necho greetings from $0\n"}
    )
    assert image == "localhost/greeter:1"
    own_cluster.apply(pod("greeter", pod_spec(image, "/app/greet")), namespace)
    done = "jsonpath={.status.phase}=Succeeded"
    own_cluster.wait(done, "pod/greeter", namespace=namespace)
    said = own_cluster.kubectl("logs", "greeter", f"--namespace={namespace}")
    assert said == "greetings from /app/greet\n"


def test_only_who_tolerates_it_gets_a_simulated_gpu_node(
    own_cluster: OwnCluster, namespace: str
) -> None:
    names = own_cluster.add_nodes(2, labels={"zone": "a"})
    own_cluster.apply(gpu_pod("stays-out"), namespace)
    tolerations = [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}]
    own_cluster.apply(gpu_pod("gets-in", tolerations=tolerations), namespace)
    running = "jsonpath={.status.phase}=Running"
    own_cluster.wait(running, "pod/gets-in", namespace=namespace)
    assert own_cluster.get("pod", "gets-in", namespace)["spec"]["nodeName"] in names
    own_cluster.wait("condition=PodScheduled=False", "pod/stays-out", namespace=namespace)
    [condition] = own_cluster.get("pod", "stays-out", namespace)["status"]["conditions"]
    assert "untolerated taint" in condition["message"]


@pytest.mark.parametrize(("code", "end"), [("0", "Complete"), ("3", "Failed")])
def test_simulated_pods_of_jobs_end_as_their_annotations_say(
    own_cluster: OwnCluster, namespace: str, code: str, end: str
) -> None:
    own_cluster.add_nodes(2)
    template = {
        "metadata": {"annotations": {"crucible.testing/exit-code": code}},
        "spec": gpu_pod("", tolerations=[{"operator": "Exists"}])["spec"],
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train"},
        "spec": {"backoffLimit": 0, "template": template},
    }
    own_cluster.apply(job, namespace)
    own_cluster.wait(f"condition={end}", "job/train", namespace=namespace)


def test_simulated_pods_of_jobs_run_as_long_as_they_say(
    own_cluster: OwnCluster, namespace: str
) -> None:
    own_cluster.add_nodes(2)
    spec = gpu_pod("", tolerations=[{"operator": "Exists"}])["spec"]
    metadata = {"annotations": {"crucible.testing/run-for": "1h"}}
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train"},
        "spec": {"template": {"metadata": metadata, "spec": spec}},
    }
    own_cluster.apply(job, namespace)
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


def test_the_api_server_comes_back_with_everything(own_cluster: OwnCluster, namespace: str) -> None:
    own_cluster.apply(pod("before", pod_spec(own_cluster.shell_image, "sleep 1000")), namespace)
    own_cluster.wait("condition=Ready", "pod/before", namespace=namespace)
    own_cluster.kill("kube-apiserver")
    with pytest.raises(ClusterFailed, match="refused"):
        own_cluster.kubectl("get", "nodes")
    with pytest.raises(ClusterFailed, match="not running"):
        own_cluster.pid("kube-apiserver")
    own_cluster.restart("kube-apiserver")
    assert own_cluster.get("pod", "before", namespace)["status"]["phase"] == "Running"
    assert run(own_cluster, namespace, "after", "echo works") == "works\n"


@pytest.mark.parametrize("part", ["kubelet", "containerd"])
def test_pods_outlive_the_node_s_programs(
    own_cluster: OwnCluster, namespace: str, part: str
) -> None:
    own_cluster.apply(pod("before", pod_spec(own_cluster.shell_image, "sleep 1000")), namespace)
    own_cluster.wait("condition=Ready", "pod/before", namespace=namespace)
    [before] = own_cluster.get("pod", "before", namespace)["status"]["containerStatuses"]
    killed = own_cluster.pid(part)
    own_cluster.restart(part)
    assert own_cluster.pid(part) != killed
    assert run(own_cluster, namespace, "after", "echo works") == "works\n"
    [after] = own_cluster.get("pod", "before", namespace)["status"]["containerStatuses"]
    assert after["containerID"] == before["containerID"]
    assert after["state"] == before["state"]


def test_a_stopped_scheduler_schedules_nothing(own_cluster: OwnCluster, namespace: str) -> None:
    own_cluster.signal("kube-scheduler", signal.SIGSTOP)
    own_cluster.apply(pod("waits", pod_spec(own_cluster.shell_image, "true")), namespace)
    time.sleep(2.0)
    assert "nodeName" not in own_cluster.get("pod", "waits", namespace)["spec"]
    own_cluster.signal("kube-scheduler", signal.SIGCONT)
    done = "jsonpath={.status.phase}=Succeeded"
    own_cluster.wait(done, "pod/waits", namespace=namespace)


@pytest.mark.parametrize(("script", "fault"), [("", "ended"), ("sleep 60", "is not ready")])
def test_what_a_broken_part_said_is_in_the_error(
    own_cluster: OwnCluster, tmp_path: Path, script: str, fault: str
) -> None:
    command = ("sh", "-c", f"echo no such flag; {script}")
    part = Part(PartSpec("broken", command, lambda: False), own_cluster.namespaces, tmp_path)
    part.start()
    with pytest.raises(ClusterFailed, match=f"broken {fault}(.|\n)*no such flag"):
        part.wait_ready(timeout_seconds=1.0)
    if part.is_running:
        part.send(signal.SIGKILL)


class Traces:
    """What a running cluster has of this machine, to look for when it is gone."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.folder = Path(state["kubeconfig"]).parent
        self.name = f"crucible{self.folder.name}"
        self.processes = os.readlink(f"/proc/{state['first_pid']}/ns/pid")
        self.network = os.readlink(f"/proc/{state['first_pid']}/ns/net")

    def alive(self) -> list[str]:
        """Processes, and whatever the kernel keeps as long as there is one."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                inside = os.readlink(process / "ns/pid") == self.processes
                inside |= os.readlink(process / "ns/net") == self.network
                mounts = str(self.folder) in (process / "mounts").read_text()
                entered = f"/{self.name}/" in (process / "cgroup").read_text()
            except OSError:  # ended while looked at
                continue
            if inside or mounts or entered:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        links = json.loads(subprocess.check_output(["ip", "-json", "link"]))
        routes = subprocess.check_output(["ip", "route", "show", "table", "all"], text=True)
        found += [link["ifname"] for link in links if link["ifname"] == self.name]
        found += [line for line in routes.splitlines() if f"dev {self.name} " in f"{line} "]
        return found

    def stored(self) -> list[Path]:
        """Files and cgroups, which need somebody to remove them."""
        cgroups = [*Path("/sys/fs/cgroup").glob(f"*/{self.name}")]
        cgroups += [path for path in [Path("/sys/fs/cgroup") / self.name] if path.exists()]
        return [*cgroups, *([self.folder] if self.folder.exists() else [])]


def freeze(name: str) -> None:
    """What a runtime does to a container while it kills it."""
    for state in Path("/sys/fs/cgroup/freezer", name).rglob("freezer.state"):
        state.write_text("FROZEN")


def eventually_empty(look: Callable[[], list[Any]], seconds: float = 20.0) -> list[Any]:
    deadline = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


@pytest.fixture
def second(own_cluster: OwnCluster) -> Iterator[dict[str, Any]]:
    """A second cluster beside the first, of another process, with a pod that runs."""
    name = f"second-{os.getpid()}"
    subprocess.run([*COMMAND, "up", "--detach", "--name", name], check=True, capture_output=True)
    [state] = [state for state in describe_live() if state["name"] == name]
    try:
        cluster = own_cluster.with_kubeconfig(Path(state["kubeconfig"]))
        spec = pod_spec("crucible-shell:1", "sleep 1000")
        cluster.apply(pod("idle", spec))
        cluster.wait("condition=Ready", "pod/idle")
        yield state
    finally:
        if state in describe_live():
            subprocess.run([*COMMAND, "down", "--name", name], check=True)


def test_a_stopped_cluster_leaves_nothing(second: dict[str, Any]) -> None:
    traces = Traces(second)
    assert traces.alive()
    assert traces.stored()
    freeze(traces.name)
    subprocess.run([*COMMAND, "down", "--name", second["name"]], check=True)
    assert traces.alive() == []
    assert traces.stored() == []


def test_a_killed_owner_s_cluster_dies_and_is_swept(second: dict[str, Any]) -> None:
    traces = Traces(second)
    os.kill(second["pid"], signal.SIGKILL)
    assert eventually_empty(traces.alive) == []
    assert traces.stored()
    subprocess.run([*COMMAND, "status"], check=True, capture_output=True)
    assert traces.stored() == []


def test_a_cluster_changes_no_setting_of_this_machine(own_cluster: OwnCluster) -> None:
    """The firewall of this machine has no rule of kube-proxy, and the kubelet wrote no setting."""
    inside = own_cluster.namespaces.run("iptables-save")
    assert "KUBE-SERVICES" in inside
    assert "KUBE-" not in subprocess.check_output(["iptables-save"], text=True)
    seen = own_cluster.namespaces.run("cat", "/proc/sys/kernel/panic")
    assert seen == "10\n"
    assert Path("/proc/sys/kernel/panic").read_text() != seen
