"""Nodes that exist in the API server only: kwok answers for their kubelets.

The real scheduler places pods on them, GPUs included, and kwok then reports what a kubelet would.
Only nodes with its annotation are its business; a taint keeps every other pod away. Pods of Jobs
end as soon as they run, unless annotations ask for a longer run or another end.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crucible.testing.cluster.credentials import Authority, Identity
from crucible.testing.cluster.parts import PartSpec, answers
from crucible.testing.cluster.slots import Slot

ANNOTATION = "kwok.x-k8s.io/node"
TAINT = f"{ANNOTATION}=fake:NoSchedule"
"""In kubectl's notation."""
RUN_FOR_ANNOTATION = "crucible.testing/run-for"
"""How long a simulated pod of a Job runs, as in ``30s``."""
EXIT_CODE_ANNOTATION = "crucible.testing/exit-code"
"""Anything but 0 and the simulated pod of a Job fails."""
DEFAULT_CAPACITY = {"cpu": "96", "memory": "768Gi", "nvidia.com/gpu": "8", "pods": "110"}
_PORT = 10247
_CONFIG = Path(__file__).with_name("kwok.yaml")


def kwok_part(
    slot: Slot, programs: Mapping[str, Path], authority: Authority, serving: Identity
) -> PartSpec:
    """A kwok for annotated nodes."""
    kubeconfig = authority.write_kubeconfig(
        slot.folder / "kwok.kubeconfig", "crucible:kwok", ["system:masters"]
    )
    address = f"{slot.node}:{_PORT}"
    command = (
        str(programs["kwok"]),
        f"--kubeconfig={kubeconfig}",
        f"--config={_CONFIG}",
        f"--manage-nodes-with-annotation-selector={ANNOTATION}=fake",
        f"--cidr={slot.simulated_pods}",
        f"--node-ip={slot.node}",
        f"--node-port={_PORT}",
        f"--server-address={address}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
    )
    return PartSpec("kwok", command, functools.partial(answers, f"http://{address}/healthz"))


def simulated_node(
    name: str, labels: Mapping[str, str], taints: Sequence[str], capacity: Mapping[str, str]
) -> dict[str, Any]:
    """The Node object; its status is part of it because no kubelet will bring one.

    Taints are in kubectl's notation: ``key=value:effect`` or ``key:effect``.
    """
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                **labels,
            },
            "annotations": {ANNOTATION: "fake"},
        },
        "spec": {"taints": [_taint(text) for text in taints]},
        "status": {"capacity": dict(capacity), "allocatable": dict(capacity)},
    }


def _taint(text: str) -> dict[str, str]:
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    return {"key": key, "effect": effect, **({"value": value} if value else {})}
