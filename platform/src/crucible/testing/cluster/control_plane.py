"""etcd, the API server, the controllers and the scheduler, set up as in a cluster made by kubeadm.

The admission plugins are the API server's defaults, which include PodSecurity, ResourceQuota,
LimitRanger, Priority and ServiceAccount, and NodeRestriction. Anonymous users may read the health
pages only.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from crucible.testing.cluster.credentials import Authority, Identity
from crucible.testing.cluster.parts import PartSpec, answers
from crucible.testing.cluster.slots import Slot

API_PORT = 6443
CLUSTER_DOMAIN = "cluster.local"
_ETCD = "http://127.0.0.1:2379"
_ETCD_HEALTH_PORT = 2381
_CONTROLLERS_PORT = 10257
_SCHEDULER_PORT = 10259


def server_address(slot: Slot) -> str:
    """The API server's address, for this machine and for pods."""
    return f"https://{slot.node}:{API_PORT}"


def serving_identity(slot: Slot, authority: Authority) -> Identity:
    """One certificate for every server of the node."""
    service = "kubernetes.default.svc"
    names = ["kubernetes", "kubernetes.default", service, f"{service}.{CLUSTER_DOMAIN}"]
    addresses = ["127.0.0.1", slot.node, str(slot.services[1])]
    return authority.issue("servers", hosts=["localhost", *names, *addresses])


def control_plane_parts(
    slot: Slot, programs: Mapping[str, Path], authority: Authority, serving: Identity
) -> list[PartSpec]:
    """In the order in which they start."""
    return [
        _etcd(slot, programs["etcd"]),
        _api_server(slot, programs["kube-apiserver"], authority, serving),
        _controllers(slot, programs["kube-controller-manager"], authority, serving),
        _scheduler(slot, programs["kube-scheduler"], authority, serving),
    ]


def _etcd(slot: Slot, program: Path) -> PartSpec:
    health = f"http://{slot.node}:{_ETCD_HEALTH_PORT}"
    command = (
        str(program),
        f"--data-dir={slot.folder / 'etcd'}",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        f"--listen-metrics-urls={health}",
        "--unsafe-no-fsync",  # survives every kill but the machine's, and so does nothing else here
        "--log-level=warn",
    )
    return PartSpec("etcd", command, functools.partial(answers, f"{health}/readyz"))


def _api_server(slot: Slot, program: Path, authority: Authority, serving: Identity) -> PartSpec:
    accounts = authority.issue("service-accounts")
    to_kubelet = authority.issue("kube-apiserver-kubelet-client", ["system:masters"])
    command = (
        str(program),
        f"--etcd-servers={_ETCD}",
        f"--bind-address={slot.node}",
        f"--advertise-address={slot.node}",
        f"--secure-port={API_PORT}",
        f"--service-cluster-ip-range={slot.services}",
        f"--client-ca-file={authority.certificate}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--kubelet-certificate-authority={authority.certificate}",
        f"--kubelet-client-certificate={to_kubelet.certificate}",
        f"--kubelet-client-key={to_kubelet.key}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        f"--service-account-key-file={accounts.certificate}",
        f"--service-account-signing-key-file={accounts.key}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--profiling=false",
    )
    is_ready = functools.partial(answers, f"{server_address(slot)}/readyz", authority.certificate)
    return PartSpec("kube-apiserver", command, is_ready)


def _controllers(slot: Slot, program: Path, authority: Authority, serving: Identity) -> PartSpec:
    kubeconfig = authority.write_kubeconfig(
        slot.folder / "kube-controller-manager.kubeconfig", "system:kube-controller-manager"
    )
    accounts = authority.certificate.with_name("service-accounts.key")
    command = (
        str(program),
        *_client_flags(kubeconfig),
        *_server_flags(slot, _CONTROLLERS_PORT, serving),
        f"--root-ca-file={authority.certificate}",
        f"--service-account-private-key-file={accounts}",
        f"--cluster-signing-cert-file={authority.certificate}",
        f"--cluster-signing-key-file={authority.key}",
        "--use-service-account-credentials=true",
        "--leader-elect=false",  # nobody competes, and a restart need not wait for a lease to end
        "--controllers=*,bootstrapsigner,tokencleaner",
    )
    page = f"https://{slot.node}:{_CONTROLLERS_PORT}/healthz"
    is_ready = functools.partial(answers, page, authority.certificate)
    return PartSpec("kube-controller-manager", command, is_ready)


def _scheduler(slot: Slot, program: Path, authority: Authority, serving: Identity) -> PartSpec:
    kubeconfig = authority.write_kubeconfig(
        slot.folder / "kube-scheduler.kubeconfig", "system:kube-scheduler"
    )
    command = (
        str(program),
        *_client_flags(kubeconfig),
        *_server_flags(slot, _SCHEDULER_PORT, serving),
        "--leader-elect=false",
    )
    page = f"https://{slot.node}:{_SCHEDULER_PORT}/healthz"
    return PartSpec(
        "kube-scheduler", command, functools.partial(answers, page, authority.certificate)
    )


def _client_flags(kubeconfig: Path) -> tuple[str, ...]:
    same = ("--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig")
    return tuple(f"{flag}={kubeconfig}" for flag in same)


def _server_flags(slot: Slot, port: int, serving: Identity) -> tuple[str, ...]:
    return (
        f"--bind-address={slot.node}",
        f"--secure-port={port}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
    )
