"""Controllers in a cluster, by the manifests that their projects publish with their modules."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crucible.testing.cluster import ClusterFailed, OwnCluster
from crucible.testing.controllers.build import build_controller
from crucible.testing.manifests import Manifest, module_folder, render

_TRAINER = ("github.com/kubeflow/trainer/v2", "v2.3.0")
_JOBSET = ("sigs.k8s.io/jobset", "v0.12.0")
_KUEUE = ("sigs.k8s.io/kueue", "v0.17.1")
_READY_SECONDS = 180


def install_trainer(cluster: OwnCluster) -> None:
    """Trainer with JobSet, webhooks included; returns once both are available.

    Raises:
        FileNotFoundError: they cannot be fetched here.
        ClusterFailed: they could not be built, or did not come up.
    """
    programs = {
        "jobset": build_controller(_JOBSET[0]),
        "trainer": build_controller(f"{_TRAINER[0]}/cmd/trainer-controller-manager"),
    }
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _copy(module_folder(*_TRAINER) / "manifests", place / "trainer")
        _copy(module_folder(*_JOBSET) / "config", place / "jobset")
        # The release of JobSet that Trainer names by its address is this configuration, built.
        named = place / "trainer/third-party/jobset/kustomization.yaml"
        address = f"https://github.com/kubernetes-sigs/jobset/releases/download/{_JOBSET[1]}"
        text = named.read_text()
        assert address in text
        named.write_text(text.replace(f"{address}/manifests.yaml", "../../../jobset/default"))
        objects = render(place / "trainer/overlays/manager", warnings=True)
    _run(cluster, objects, programs, lambda image: "trainer" if "/trainer/" in image else "jobset")
    for version, kind in (
        ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
        ("jobset.x-k8s.io/v1alpha2", "JobSet"),
    ):
        _wait_for_webhook(cluster, version, kind)


def install_kueue(cluster: OwnCluster) -> None:
    """Kueue, webhooks included; returns and raises as `install_trainer`."""
    programs = {"kueue": build_controller(f"{_KUEUE[0]}/cmd/kueue")}
    with tempfile.TemporaryDirectory() as folder:
        _copy(module_folder(*_KUEUE) / "config", Path(folder) / "kueue")
        objects = render(Path(folder) / "kueue/default", warnings=True)
    _run(cluster, objects, programs, lambda image: "kueue")
    _wait_for_webhook(cluster, "kueue.x-k8s.io/v1beta2", "ClusterQueue")


def _copy(source: Path, target: Path) -> None:
    """Modules are read-only, and their copies would be."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def _run(
    cluster: OwnCluster,
    objects: list[Manifest],
    programs: Mapping[str, Path],
    program_of: Callable[[str], str],
) -> None:
    images = {
        name: cluster.add_image(
            f"docker.io/library/crucible-{name}:1", {"/manager": path.read_bytes()}
        )
        for name, path in programs.items()
    }
    namespaces: dict[str, list[str]] = {}
    for manifest in objects:
        if manifest["kind"] == "Deployment":
            metadata = manifest["metadata"]
            for container in manifest["spec"]["template"]["spec"]["containers"]:
                _adapt(container, images[program_of(container["image"])])
            namespaces.setdefault(metadata["namespace"], []).append(f"deploy/{metadata['name']}")
    cluster.apply(objects)
    for namespace, deployments in namespaces.items():
        cluster.wait(
            "condition=Available",
            *deployments,
            namespace=namespace,
            timeout_seconds=_READY_SECONDS,
        )


def _wait_for_webhook(cluster: OwnCluster, version: str, kind: str) -> None:
    """Return once objects of that kind are looked at: a ready pod begins to listen only then."""
    probe = {"apiVersion": version, "kind": kind, "metadata": {"name": "probe"}, "spec": {}}
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            cluster.kubectl("create", "--dry-run=server", "-f", "-", text=json.dumps(probe))
            return
        except ClusterFailed as failure:
            if "failed calling webhook" not in str(failure):
                return  # it was looked at, and refused
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def _adapt(container: dict[str, Any], image: str) -> None:
    """The program of ours under the settings of theirs; their images say the rest themselves."""
    container |= {"image": image, "command": ["/manager"], "imagePullPolicy": "IfNotPresent"}
    container.setdefault("securityContext", {})["runAsUser"] = 65532
