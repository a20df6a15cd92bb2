"""Where clusters of this machine live: numbered slots, each held by its owner's lock.

A slot is a folder, a block of addresses and a cgroup, all named by one small number. The kernel
drops the lock when the owner dies, however it dies, so a slot with a folder but without a lock is a
leftover and whoever comes next removes it. Addresses are from 198.18.0.0/15, which RFC 2544 sets
aside for tests: neither a company's network nor a container engine uses them.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from crucible.testing.cluster.failures import ClusterFailed

FOLDER = Path("/var/lib/crucible/clusters")
_CGROUPS = Path("/sys/fs/cgroup")
_KUBELET_KINDS = {"cpu", "cpuset", "memory", "hugetlb", "pids"}
NUM_SLOTS = 64
_REMOVE_SECONDS = 20.0


@dataclass(frozen=True)
class Slot:
    """A number that no other cluster of this machine has, and what follows from it."""

    number: int
    lock: IO[str] = field(repr=False, compare=False)

    @property
    def folder(self) -> Path:
        return FOLDER / str(self.number)

    @property
    def name(self) -> str:
        """Of the network device on this machine, and of the cgroup."""
        return f"crucible{self.number}"

    @property
    def block(self) -> ipaddress.IPv4Network:
        """1,024 addresses: the link, the pods, the services, the pods on simulated nodes."""
        first = ipaddress.IPv4Address("198.18.0.0") + 1024 * self.number
        return ipaddress.IPv4Network((first, 22))

    @property
    def gateway(self) -> str:
        """This machine, as the cluster sees it."""
        return str(self.block[1])

    @property
    def node(self) -> str:
        """The node and the control plane, as this machine and the pods see them."""
        return str(self.block[2])

    @property
    def pods(self) -> ipaddress.IPv4Network:
        return list(self.block.subnets(new_prefix=24))[1]

    @property
    def services(self) -> ipaddress.IPv4Network:
        return list(self.block.subnets(new_prefix=24))[2]

    @property
    def simulated_pods(self) -> ipaddress.IPv4Network:
        return list(self.block.subnets(new_prefix=24))[3]

    def make_cgroups(self) -> None:
        """The kubelet asks for one of every kind and makes its own below."""
        if (_CGROUPS / "cgroup.controllers").exists():
            present = (_CGROUPS / "cgroup.controllers").read_text().split()
            granted = " ".join(f"+{kind}" for kind in present if kind in _KUBELET_KINDS)
            (_CGROUPS / "cgroup.subtree_control").write_text(granted)
        for parent in _hierarchies():
            (parent / self.name).mkdir(exist_ok=True)

    def thaw(self) -> None:
        """Let frozen containers go on, so that they can be killed."""
        thaw(self.number)

    def release(self) -> None:
        """Remove folder and cgroups, then let the number go."""
        try:
            remove_traces(self.number)
        finally:
            self.lock.close()


def claim_slot(wanted: int | None = None) -> Slot:
    """The slot wanted, or the first that is free, after a sweep of what dead owners left.

    Raises:
        ClusterFailed: it is taken, or all are.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    sweep_leftovers()
    for number in range(NUM_SLOTS) if wanted is None else (wanted,):
        lock = _try_lock(number)
        if lock is None:
            continue
        slot = Slot(number, lock)
        if _is_routed(slot.block):
            lock.close()
            continue
        remove_traces(number)  # another owner may have come and died since the sweep
        slot.folder.mkdir()
        return slot
    what = f"all {NUM_SLOTS} slots are" if wanted is None else f"slot {wanted} is"
    raise ClusterFailed(f"{what} taken; python -m crucible.testing.cluster status shows by whom")


def sweep_leftovers() -> list[int]:
    """Remove what clusters with dead owners left; returns their numbers."""
    swept = []
    for number in _numbers():
        lock = _try_lock(number)
        if lock is not None:
            with lock:
                remove_traces(number)
            swept.append(number)
    return swept


def describe_live() -> Iterator[dict[str, Any]]:
    """The state that each running cluster's owner wrote."""
    for number in _numbers():
        if not is_taken(number):
            continue
        state = FOLDER / str(number) / "state.json"
        if state.exists():
            yield json.loads(state.read_text())


def is_taken(number: int) -> bool:
    """True as long as an owner lives: it lets go last of all."""
    lock = _try_lock(number)
    if lock is not None:
        lock.close()
    return lock is None


def remove_traces(number: int) -> None:
    """Remove a slot's folder and cgroups; all else went with its namespaces.

    Raises:
        ClusterFailed: something still holds them.
    """
    deadline = time.monotonic() + _REMOVE_SECONDS
    while True:
        thaw(number)
        try:
            for parent in _hierarchies():
                _remove_cgroup(parent / f"crucible{number}")
            folder = FOLDER / str(number)
            if folder.exists():
                shutil.rmtree(folder)
            return
        except OSError as error:  # the kernel is still taking the namespaces down
            if time.monotonic() > deadline:
                raise ClusterFailed(f"slot {number} cannot be removed: {error}") from error
            time.sleep(0.05)


def thaw(number: int) -> None:
    """Let the slot's frozen containers go on.

    A container is frozen for a moment while it is killed. If its runtime dies in that moment it
    stays frozen, and on cgroup version 1 a frozen process does not even hear SIGKILL.
    """
    for state in (_CGROUPS / "freezer" / f"crucible{number}").rglob("freezer.state"):
        with contextlib.suppress(OSError):  # removed meanwhile
            state.write_text("THAWED")


def _numbers() -> list[int]:
    if not FOLDER.exists():
        return []
    return sorted(int(path.name) for path in FOLDER.iterdir() if path.name.isdigit())


def _try_lock(number: int) -> IO[str] | None:
    """The slot's lock file, locked; None if its owner lives. Never removed: a race would follow."""
    file = (FOLDER / f"{number}.lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _is_routed(block: ipaddress.IPv4Network) -> bool:
    """True if this machine already sends some of these addresses somewhere, default route aside."""
    listing = subprocess.run(
        ["ip", "-json", "-4", "route", "show", "table", "all"],
        capture_output=True,
        text=True,
        check=True,
    )
    targets = {str(route["dst"]) for route in json.loads(listing.stdout)} - {"default"}
    return any(block.overlaps(ipaddress.IPv4Network(target, strict=False)) for target in targets)


def _hierarchies() -> list[Path]:
    """The cgroup trees: one on version 2, one for each kind of resource on version 1."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return sorted(path for path in _CGROUPS.iterdir() if os.path.ismount(path))


def _remove_cgroup(folder: Path) -> None:
    if not folder.exists():
        return
    for path, folders, _ in os.walk(folder, topdown=False):
        for name in folders:
            os.rmdir(Path(path) / name)
    folder.rmdir()
