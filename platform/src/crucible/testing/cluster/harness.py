"""A real Kubernetes, started here and gone when its block ends."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from crucible.testing.cluster.control_plane import (
    control_plane_parts,
    server_address,
    serving_identity,
)
from crucible.testing.cluster.credentials import Authority
from crucible.testing.cluster.failures import ClusterFailed
from crucible.testing.cluster.handle import Cluster
from crucible.testing.cluster.images import (
    PAUSE_IMAGE,
    SHELL_IMAGE,
    import_archive,
    write_image,
)
from crucible.testing.cluster.namespaces import OwnNamespaces
from crucible.testing.cluster.node import NODE_NAME, containerd_part, kubelet_part
from crucible.testing.cluster.parts import Part, PartSpec
from crucible.testing.cluster.programs import build_programs
from crucible.testing.cluster.requirements import check_machine
from crucible.testing.cluster.services import (
    HOST_NAME,
    coredns_part,
    dns_permissions,
    kube_proxy_part,
)
from crucible.testing.cluster.simulated import DEFAULT_CAPACITY, TAINT, kwok_part, simulated_node
from crucible.testing.cluster.slots import Slot, claim_slot
from crucible.testing.cluster.storage import default_storage

logger = logging.getLogger(__name__)

_WATCHERS = ("kube-controller-manager", "kube-scheduler")


class OwnCluster(Cluster):
    """A cluster of this process, whose parts it may break and mend."""

    gateway: str
    node_name = NODE_NAME
    """The one real node."""
    host_name = HOST_NAME
    """What pods may call `gateway`."""

    def __init__(
        self, slot: Slot, namespaces: OwnNamespaces, programs: Mapping[str, Path], name: str
    ) -> None:
        self.folder = slot.folder
        self.name = name
        self.gateway = slot.gateway
        self.namespaces = namespaces
        self._slot = slot
        self._programs = programs
        self._logs = slot.folder / "logs"
        self._logs.mkdir()
        self._authority = Authority(slot.folder / "pki", server_address(slot))
        self._serving = serving_identity(slot, self._authority)
        self._parts: dict[str, Part] = {}
        kubeconfig = self._authority.write_kubeconfig(
            slot.folder / "admin.kubeconfig", "crucible:admin", ["system:masters"]
        )
        super().__init__(kubeconfig, slot.folder, str(programs["kubectl"]))

    @property
    def server(self) -> str:
        return server_address(self._slot)

    @property
    def shell_image(self) -> str:
        return SHELL_IMAGE

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the programs that were started."""
        return tuple(self._parts)

    def pid(self, name: str) -> int:
        """The process of a part; ClusterFailed if it is not running."""
        return self._part(name).pid

    def log(self, name: str) -> Path:
        """What a part has written."""
        return self._part(name).log

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a part: SIGSTOP makes one that is there but does not answer."""
        self._part(name).send(number)

    def kill(self, name: str) -> None:
        """SIGKILL a part; it stays away until `restart`."""
        self.signal(name, signal.SIGKILL)

    def restart(self, name: str) -> None:
        """Kill a part if it runs, start it, and return once it works.

        What watches the API has waited longer each time that it did not answer, in the end half a
        minute: those who would delay everything are started anew with it.
        """
        waiting = _WATCHERS if name in ("kube-apiserver", "etcd") else ()
        parts = [self._part(each) for each in (name, *waiting)]
        for part in parts:
            if part.is_running:
                part.send(signal.SIGKILL)
            part.start()
            part.wait_ready()

    def user_kubeconfig(self, user: str, groups: Iterable[str] = ()) -> Path:
        """A kubeconfig with a certificate for any user and groups; new users have no rights."""
        path = self.folder / f"user-{user.replace(':', '-')}.kubeconfig"
        return self._authority.write_kubeconfig(path, user, groups)

    def import_image(self, archive: Path) -> list[str]:
        """Give the node the images of a docker or OCI archive; returns their full names."""
        return import_archive(self.namespaces, archive)

    def add_image(
        self,
        name: str,
        files: Mapping[str, bytes] | None = None,
        command: Sequence[str] = ("/bin/sh",),
    ) -> str:
        """Make an image of busybox and ``files`` and give it to the node; returns its full name."""
        archive = self.folder / "image.tar"
        [full_name] = self.import_image(write_image(archive, name, files=files, command=command))
        archive.unlink()
        return full_name

    def add_nodes(
        self,
        count: int,
        *,
        prefix: str = "gpu",
        labels: Mapping[str, str] | None = None,
        taints: Sequence[str] = (TAINT,),
        capacity: Mapping[str, str] = DEFAULT_CAPACITY,
    ) -> list[str]:
        """Add simulated nodes; returns their names once they are ready.

        Args:
            count: how many.
            labels: beside those that every node has.
            prefix: they are called ``PREFIX-0`` and so on; existing ones are changed.
            taints: in kubectl's notation. Without one, pods that mean to run may land there.
            capacity: all of it can be allocated.
        """
        if "kwok" not in self._parts:
            self._launch(kwok_part(self._slot, self._programs, self._authority, self._serving))
        names = [f"{prefix}-{number}" for number in range(count)]
        self.apply([simulated_node(name, labels or {}, taints, capacity) for name in names])
        self.wait("condition=Ready", *(f"node/{name}" for name in names))
        return names

    def start(self) -> None:
        """Start every part in order; returns once the node is ready and names resolve."""
        slot, programs, authority = self._slot, self._programs, self._authority
        self._launch(containerd_part(slot, self.namespaces))
        self.add_image(PAUSE_IMAGE, command=["/bin/busybox", "sleep", "infinity"])
        self.add_image(SHELL_IMAGE)
        for spec in control_plane_parts(slot, programs, authority, self._serving):
            self._launch(spec)
        self.apply([*dns_permissions(), *default_storage(slot.folder / "volumes", NODE_NAME)])
        self._launch(kubelet_part(slot, programs, authority, self._serving, self._node_ready))
        self._launch(kube_proxy_part(slot, self.namespaces, programs, authority))
        self._launch(coredns_part(slot, programs, authority))
        self.wait("create", "serviceaccount/default")  # pods are refused until it is there
        self._write_state()

    def _launch(self, spec: PartSpec) -> None:
        started = time.monotonic()
        part = self._parts[spec.name] = Part(spec, self.namespaces, self._logs)
        part.start()
        part.wait_ready()
        logger.info("%s is ready after %.1f s", spec.name, time.monotonic() - started)

    def _part(self, name: str) -> Part:
        if name not in self._parts:
            raise ClusterFailed(f"no part {name!r}; there are {', '.join(self._parts)}")
        return self._parts[name]

    def _node_ready(self) -> bool:
        try:
            node = self.get("node", NODE_NAME)
        except ClusterFailed:
            return False
        conditions = node["status"].get("conditions", [])
        return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)

    def _write_state(self) -> None:
        state = {
            "name": self.name,
            "pid": os.getpid(),
            "first_pid": self.namespaces.first_pid,
            "kubeconfig": str(self.kubeconfig),
            "server": self.server,
            "gateway": self.gateway,
            "logs": str(self._logs),
        }
        partial = self.folder / "state.json.partial"
        partial.write_text(json.dumps(state))
        partial.rename(self.folder / "state.json")


@contextlib.contextmanager
def start_cluster(name: str = "test", slot: int | None = None) -> Iterator[OwnCluster]:
    """A cluster with one real node; everything of it is gone when the block ends.

    Args:
        name: what `python -m crucible.testing.cluster status` calls it.
        slot: decides its addresses and folder, from 0 to 63; the first that is free if None.

    Raises:
        MachineUnfit: something is missing here.
        ClusterFailed: a part did not start; with its last log lines.
    """
    check_machine()
    programs = build_programs()
    with contextlib.ExitStack() as stack:
        claimed = claim_slot(slot)
        stack.callback(claimed.release)
        claimed.make_cgroups()
        namespaces = OwnNamespaces(claimed)
        stack.callback(namespaces.stop)
        cluster = OwnCluster(claimed, namespaces, programs, name)
        cluster.start()
        yield cluster
