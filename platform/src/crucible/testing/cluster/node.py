"""The one real node: containerd, a kubelet, and the network its pods are on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crucible.testing.cluster.control_plane import CLUSTER_DOMAIN
from crucible.testing.cluster.credentials import Authority, Identity
from crucible.testing.cluster.images import PAUSE_IMAGE, SOCKET
from crucible.testing.cluster.namespaces import Namespaces
from crucible.testing.cluster.parts import PartSpec
from crucible.testing.cluster.requirements import plugin_dir
from crucible.testing.cluster.slots import Slot

NODE_NAME = "node"


def containerd_part(slot: Slot, namespaces: Namespaces) -> PartSpec:
    """A containerd with folders of its own; CRI's settings come from here, never from /etc."""
    config = slot.folder / "containerd.toml"
    config.write_text(_containerd_config(slot))
    _write_network(slot)

    def is_ready() -> bool:
        return namespaces.succeeds("ctr", "--address", SOCKET, "version")

    return PartSpec("containerd", ("containerd", "--config", str(config)), is_ready)


def kubelet_part(
    slot: Slot,
    programs: Mapping[str, Path],
    authority: Authority,
    serving: Identity,
    is_ready: Callable[[], bool],
) -> PartSpec:
    """A kubelet that answers at the node's address."""
    import yaml

    kubeconfig = authority.write_kubeconfig(
        slot.folder / "kubelet.kubeconfig", f"system:node:{NODE_NAME}", ["system:nodes"]
    )
    config = slot.folder / "kubelet.yaml"
    config.write_text(yaml.safe_dump(_kubelet_config(slot, authority, serving)))
    command = (
        str(programs["kubelet"]),
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--root-dir={slot.folder / 'kubelet'}",
        f"--cert-dir={slot.folder / 'kubelet' / 'pki'}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={slot.node}",  # a loopback address would be refused
    )
    return PartSpec("kubelet", command, is_ready)


def _containerd_config(slot: Slot) -> str:
    quoted = json.dumps
    plugins = plugin_dir()
    assert plugins is not None
    return f"""\
version = 2
root = {quoted(str(slot.folder / "containerd"))}
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = {quoted(SOCKET)}
[plugins."io.containerd.internal.v1.opt"]
path = {quoted(str(slot.folder / "opt"))}
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = {quoted(PAUSE_IMAGE)}
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {quoted(str(plugins))}
conf_dir = {quoted(str(slot.folder / "cni"))}
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def _write_network(slot: Slot) -> None:
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": str(slot.pods)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": "/run/cni",
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": addresses,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    document = {"cniVersion": "0.4.0", "name": "crucible", "plugins": [bridge, ports]}
    folder = slot.folder / "cni"
    folder.mkdir()
    (folder / "10-crucible.conflist").write_text(json.dumps(document))


def _kubelet_config(slot: Slot, authority: Authority, serving: Identity) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": slot.node,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority.certificate)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "clusterDNS": [str(slot.pods[1])],
        "clusterDomain": CLUSTER_DOMAIN,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{slot.name}",
        "failSwapOn": False,
        "syncFrequency": "5s",  # a Secret that changes reaches its pods no sooner
        "localStorageCapacityIsolation": False,  # it cannot measure every file system
        "imageGCHighThresholdPercent": 100,  # imported images cannot be pulled again
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
    }
