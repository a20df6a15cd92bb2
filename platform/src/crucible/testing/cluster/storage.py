"""A default storage class, so that claims of volumes are met as on other clusters.

No provisioner can be pulled, so its work is done in advance: folders on the node, each offered as a
volume larger than anybody asks for. A folder serves one claim in the cluster's life.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

STORAGE_CLASS = "standard"
NUM_VOLUMES = 32
_CAPACITY = "1Ti"


def default_storage(folder: Path, node_name: str) -> list[dict[str, Any]]:
    """Make the folders; returns the objects that offer them."""
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    volumes = []
    for number in range(NUM_VOLUMES):
        path = folder / str(number)
        path.mkdir(parents=True)
        path.chmod(0o777)
        volumes.append(_volume(f"local-{number}", path, node_name))
    return [storage_class, *volumes]


def _volume(name: str, path: Path, node_name: str) -> dict[str, Any]:
    """A ``local`` volume: unlike ``hostPath`` it follows a pod's ``fsGroup``."""
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node_name]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": _CAPACITY},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
            "local": {"path": str(path)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        },
    }
