"""Names and addresses of Services: kube-proxy with iptables, CoreDNS on the pods' bridge.

Both run beside the kubelet instead of in pods, because there is no image to run them from. Firewall
rules stay in the cluster's own network namespace. CoreDNS knows the cluster and this machine, as
``host.containers.internal``, and answers at once that nothing else exists: pods have no way out.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from crucible.testing.cluster.control_plane import CLUSTER_DOMAIN
from crucible.testing.cluster.credentials import Authority
from crucible.testing.cluster.namespaces import Namespaces
from crucible.testing.cluster.node import NODE_NAME
from crucible.testing.cluster.parts import PartSpec, answers
from crucible.testing.cluster.slots import Slot

HOST_NAME = "host.containers.internal"
_DNS_USER = "crucible:dns"
_PROXY_HEALTH_PORT = 10256
_DNS_READY_PORT = 8181


def kube_proxy_part(
    slot: Slot, namespaces: Namespaces, programs: Mapping[str, Path], authority: Authority
) -> PartSpec:
    """kube-proxy; leaves the kernel's connection tracking limits alone."""
    kubeconfig = authority.write_kubeconfig(
        slot.folder / "kube-proxy.kubeconfig", "system:kube-proxy"
    )
    health = f"{slot.node}:{_PROXY_HEALTH_PORT}"
    # Where bridged packets pass no firewall, answers of a pod to its neighbour would keep the
    # wrong sender; there all of them have to pass through the node.
    sees_bridge = namespaces.succeeds("test", "-e", "/proc/sys/net/bridge")
    document = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": str(slot.pods),
        "hostnameOverride": NODE_NAME,
        "healthzBindAddress": health,
        "conntrack": {"maxPerCore": 0, "min": 0},
        "iptables": {"masqueradeAll": not sees_bridge},
    }
    config = slot.folder / "kube-proxy.json"
    config.write_text(json.dumps(document))
    command = (str(programs["kube-proxy"]), f"--config={config}")
    return PartSpec("kube-proxy", command, functools.partial(answers, f"http://{health}/healthz"))


def coredns_part(slot: Slot, programs: Mapping[str, Path], authority: Authority) -> PartSpec:
    """CoreDNS at the first address of the pods' network."""
    kubeconfig = authority.write_kubeconfig(slot.folder / "coredns.kubeconfig", _DNS_USER)
    config = slot.folder / "Corefile"
    config.write_text(f"""\
{CLUSTER_DOMAIN} in-addr.arpa {{
    bind {slot.pods[1]}
    errors
    ready {slot.node}:{_DNS_READY_PORT}
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 1
    }}
}}
{HOST_NAME} {{
    bind {slot.pods[1]}
    hosts {{
        {slot.gateway} {HOST_NAME}
    }}
}}
. {{
    bind {slot.pods[1]}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
""")
    command = (str(programs["coredns"]), "-conf", str(config))
    page = f"http://{slot.node}:{_DNS_READY_PORT}/ready"
    return PartSpec("coredns", command, functools.partial(answers, page))


def dns_permissions() -> list[dict[str, object]]:
    """What CoreDNS may read, as in every cluster."""
    watch = ["list", "watch"]
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": watch},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": watch},
    ]
    group = "rbac.authorization.k8s.io"
    metadata = {"name": _DNS_USER}
    return [
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": metadata,
            "rules": rules,
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": _DNS_USER},
            "subjects": [{"apiGroup": group, "kind": "User", "name": _DNS_USER}],
        },
    ]
