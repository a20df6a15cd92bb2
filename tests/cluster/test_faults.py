"""Parts of the cluster can be killed and mended, and the whole leaves nothing behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crucible.testing.cluster import Cluster, ClusterFailed, OwnCluster, hardened_pod_spec, pod
from crucible.testing.cluster.images import SHELL_IMAGE
from crucible.testing.cluster.parts import Part, PartSpec
from crucible.testing.cluster.slots import NUM_SLOTS, describe_live

COMMAND = [sys.executable, "-m", "crucible.testing.cluster"]


def run_idle_pod(cluster: Cluster, namespace: str) -> None:
    cluster.apply(pod("idle", hardened_pod_spec(SHELL_IMAGE, "sleep 1000")), namespace)
    cluster.wait("condition=Ready", "pod/idle", namespace=namespace)


def test_the_api_server_comes_back_with_everything(own_cluster: OwnCluster, namespace: str) -> None:
    run_idle_pod(own_cluster, namespace)
    own_cluster.kill("kube-apiserver")
    with pytest.raises(ClusterFailed, match="refused"):
        own_cluster.kubectl("get", "nodes")
    with pytest.raises(ClusterFailed, match="not running"):
        own_cluster.pid("kube-apiserver")
    own_cluster.restart("kube-apiserver")
    assert own_cluster.get("pod", "idle", namespace)["status"]["phase"] == "Running"
    assert own_cluster.run_pod("echo works", namespace) == "works\n"


@pytest.mark.parametrize("part", ["kubelet", "containerd"])
def test_pods_outlive_the_node_s_programs(
    own_cluster: OwnCluster, namespace: str, part: str
) -> None:
    run_idle_pod(own_cluster, namespace)
    [before] = own_cluster.get("pod", "idle", namespace)["status"]["containerStatuses"]
    killed = own_cluster.pid(part)
    own_cluster.restart(part)
    assert own_cluster.pid(part) != killed
    assert own_cluster.run_pod("echo works", namespace) == "works\n"
    [after] = own_cluster.get("pod", "idle", namespace)["status"]["containerStatuses"]
    assert after["containerID"] == before["containerID"]
    assert after["state"] == before["state"]


def test_a_stopped_scheduler_schedules_nothing(own_cluster: OwnCluster, namespace: str) -> None:
    own_cluster.signal("kube-scheduler", signal.SIGSTOP)
    own_cluster.apply(pod("waits", hardened_pod_spec(own_cluster.shell_image, "true")), namespace)
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
    slot = random.randrange(32, NUM_SLOTS)  # where nobody comes next and makes traces of its own
    command = [*COMMAND, "up", "--detach", "--name", name, f"--slot={slot}"]
    subprocess.run(command, check=True, capture_output=True)
    [state] = [state for state in describe_live() if state["name"] == name]
    try:
        cluster = own_cluster.with_kubeconfig(Path(state["kubeconfig"]))
        run_idle_pod(cluster, "default")
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
    assert traces.stored()
    os.kill(second["pid"], signal.SIGKILL)
    assert eventually_empty(traces.alive) == []
    subprocess.run([*COMMAND, "status"], check=True, capture_output=True)  # as any start does
    assert traces.stored() == []


def test_a_cluster_changes_no_setting_of_this_machine(own_cluster: OwnCluster) -> None:
    """The firewall of this machine has no rule of kube-proxy, and the kubelet wrote no setting."""
    inside = own_cluster.namespaces.run("iptables-save")
    assert "KUBE-SERVICES" in inside
    assert "KUBE-" not in subprocess.check_output(["iptables-save"], text=True)
    seen = own_cluster.namespaces.run("cat", "/proc/sys/kernel/panic")
    assert seen == "10\n"
    assert Path("/proc/sys/kernel/panic").read_text() != seen
