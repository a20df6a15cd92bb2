"""The repository's manifests in a cluster of a test's own: they hold for all of it."""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from crucible.testing.cluster import Cluster, ClusterFailed, OwnCluster
from crucible.testing.manifests import module_folder

SYSTEM = "crucible-system"
RUNS = "kubeflow"
"""Where steps run."""
_DEFINITIONS = {
    ("github.com/kubeflow/trainer/v2", "v2.3.0"): "manifests/base/crds",
    ("sigs.k8s.io/jobset", "v0.12.0"): "config/components/crd/bases",
    ("sigs.k8s.io/kueue", "v0.17.1"): "config/components/crd/bases",
    # Of the 4.0 line that KFP takes, the one that is published as a module.
    ("github.com/argoproj/argo-workflows/v4", "v4.0.5"): "manifests/base/crds/minimal",
}
_KFP: list[dict[str, Any]] = [
    {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": RUNS,
            "labels": {
                "pod-security.kubernetes.io/enforce": "baseline",
                "pod-security.kubernetes.io/warn": "restricted",
            },
        },
    },
    {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kfp-launcher", "namespace": RUNS},
        "data": {"defaultPipelineRoot": ""},
    },
]
"""What Kubeflow Pipelines makes that the manifests build upon."""


class Site:
    """A cluster as an administrator prepares it, with one overlay at a time."""

    def __init__(self, cluster: OwnCluster, manifests: Path) -> None:
        """Prepare a cluster without them; ``manifests`` is the repository's folder."""
        self.cluster = cluster
        self._manifests = manifests
        self._installed: str | None = None
        cluster.apply(_KFP)
        cluster.add_namespace("team-a")

    def define_custom_resources(self) -> None:
        """Trainer's, JobSet's, Kueue's and Argo's kinds, without their controllers.

        Raises:
            FileNotFoundError: they cannot be fetched here.
        """
        documents = [
            document
            for module, folder in _DEFINITIONS.items()
            for path in sorted((module_folder(*module) / folder).glob("*.yaml"))
            for document in yaml.safe_load_all(path.read_text())
            if document and document["kind"] == "CustomResourceDefinition"
        ]
        self.cluster.apply(documents)
        names = [f"crd/{document['metadata']['name']}" for document in documents]
        self.cluster.wait("condition=Established", *names)

    def install(self, overlay: str) -> None:
        """Make an overlay the one that is installed, anew: its pods do not wait for older ones."""
        if overlay == self._installed:
            return
        self.cluster.kubectl("delete", "deployment", "--all", f"--namespace={SYSTEM}")
        # Their claims' sizes differ, and those of an existing one cannot be changed.
        self.cluster.kubectl(
            "delete", "statefulset", "--all", f"--namespace={SYSTEM}", "--cascade=orphan"
        )
        self.apply(overlay)
        self._installed = overlay

    def apply(self, overlay: str) -> str:
        """The documented command; a warning of the server's is an error."""
        return self.cluster.kubectl(
            "apply", "--server-side", "--field-manager=crucible", "--warnings-as-errors",
            "-k", str(self._manifests / "overlays" / overlay),
        )  # fmt: skip

    def make_secrets(self, *namespaces: str) -> None:
        """The documented command; existing Secrets stay as they are."""
        made = subprocess.run(
            [self._manifests / "secrets.sh", *namespaces],
            capture_output=True,
            text=True,
            check=True,
        )
        try:
            self.cluster.kubectl("create", "-f", "-", text=made.stdout)
        except ClusterFailed as failure:
            if "AlreadyExists" not in str(failure):
                raise

    def give_volume(self, claim: str, owner: int) -> None:
        """A folder of this machine for a claim: the cluster has nothing that provides volumes.

        Args:
            claim: in `SYSTEM`.
            owner: user and group of the folder, since a kubelet leaves those of folders alone.
        """
        folder = self.cluster.folder / "volumes" / claim
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, owner, owner)
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": claim},
                "spec": {
                    "capacity": {"storage": "4Ti"},
                    "accessModes": ["ReadWriteOnce"],
                    "claimRef": {"namespace": SYSTEM, "name": claim},
                    "hostPath": {"path": str(folder)},
                },
            }
        )

    def secret(self, name: str, namespace: str = RUNS) -> dict[str, str]:
        """The values of a Secret."""
        data = self.cluster.get("secret", name, namespace)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def address(self, service: str) -> str:
        """``HOST:PORT`` of a Service in `SYSTEM`, as this machine reaches it."""
        spec = self.cluster.get("service", service, SYSTEM)["spec"]
        return f"{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def refusal(self, manifest: Mapping[str, Any]) -> str:
        """What the API server says against creating an object; empty if it would."""
        text = yaml.safe_dump(dict(manifest))
        try:
            self.cluster.kubectl("create", "--dry-run=server", "-f", "-", text=text)
        except ClusterFailed as refused:
            return str(refused)
        return ""


def pods_of_job(who: Cluster, job: str) -> list[dict[str, Any]]:
    """The pods of a TrainJob, by name, as ``who`` may see them."""
    selector = f"--selector=jobset.sigs.k8s.io/jobset-name={job}"
    text = who.kubectl("get", "pods", selector, f"--namespace={RUNS}", "--output=json")
    items: list[dict[str, Any]] = yaml.safe_load(text)["items"]
    return sorted(items, key=lambda pod: str(pod["metadata"]["name"]))


def hardened_pod(
    name: str,
    namespace: str = RUNS,
    *,
    image: str = "docker.io/library/crucible-shell:1",
    command: Sequence[str] = ("true",),
    **spec: Any,
) -> dict[str, Any]:
    """A pod that Pod Security's `restricted` admits."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": list(command),
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
            **spec,
        },
    }
