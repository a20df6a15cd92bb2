"""A machine within the machine: one set of namespaces in which a whole cluster lives.

Network, mounts and process numbers are the cluster's own. So its ports cannot collide, its
firewall rules and mounts never touch this machine, and taking it down is the kernel's work: the
first process reads from a pipe that its owner holds; when the owner closes it or dies, even by
SIGKILL, that process ends and the kernel ends every other in the namespace, pods included.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from crucible.testing.cluster.failures import ClusterFailed
from crucible.testing.cluster.slots import Slot

_FIRST_PROCESS = (
    *("env", "--ignore-signal=CHLD"),  # orphans end up here; this keeps them from piling up
    *("busybox", "sh", "-c", "echo ready; exec busybox cat >/dev/null"),
)
_KERNEL_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""A kubelet writes these for the whole machine; it is shown files that say what it wants."""
_PRIVATE = ("/var/log", "/var/lib/cni", "/var/lib/kubelet")
"""Compiled into programs; two kubelets would delete each other's logs."""
_STOP_SECONDS = 60.0


class Namespaces:
    """The namespaces of a running process."""

    def __init__(self, first_pid: int) -> None:
        self.first_pid = first_pid
        """Of the process that everything inside ends with, as this machine counts."""

    def prefix(self) -> list[str]:
        """What to put before a command to run it inside."""
        return ["nsenter", f"--target={self.first_pid}", "--mount", "--net", "--pid", "--"]

    def run(self, *command: str, text: str | None = None) -> str:
        """Run a command inside to its end; returns what it wrote.

        Raises:
            ClusterFailed: it ended with an error; with what it said.
        """
        done = subprocess.run(
            [*self.prefix(), *command], input=text, capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise ClusterFailed(f"{' '.join(command)} ended with {done.returncode}: {said[-2000:]}")
        return done.stdout

    def succeeds(self, *command: str) -> bool:
        """Run a command inside to its end; True if it ended without an error."""
        done = subprocess.run([*self.prefix(), *command], capture_output=True, check=False)
        return done.returncode == 0


class OwnNamespaces(Namespaces):
    """New namespaces with a link to this machine and a bridge for pods."""

    def __init__(self, slot: Slot) -> None:
        """Create them, and everything in them that no program of the cluster brings."""
        flags = ["--pid", "--fork", "--kill-child", "--mount", "--net", "--mount-proc"]
        self._slot = slot
        self._spawned: list[subprocess.Popen[bytes]] = []
        self._keeper = subprocess.Popen(
            ["unshare", *flags, "--propagation", "private", "--", *_FIRST_PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # ctrl-C in a terminal is for the owner, which then stops it
        )
        try:
            assert self._keeper.stdout is not None
            with self._keeper.stdout as output:
                if output.readline() != b"ready\n":
                    raise ClusterFailed("unshare could not create namespaces; it says why above")
            super().__init__(children(self._keeper.pid)[0])
            self._arrange_mounts()
            self._arrange_network()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything inside; returns when it is gone."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        deadline = time.monotonic() + _STOP_SECONDS
        for process in (self._keeper, *self._spawned):
            process.send_signal(signal.SIGCONT)  # whoever was stopped cannot collect its child
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise ClusterFailed(f"process {process.pid} did not end")
                self._slot.thaw()
                time.sleep(0.02)

    def spawn(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a program inside and leave it running; its output is added to a file.

        The process returned is the one that entered the namespaces; the program is its child.
        """
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*self.prefix(), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        self._spawned.append(process)
        return process

    def _arrange_mounts(self) -> None:
        """Keep the cluster's state apart from this machine's, and from another cluster's."""
        self.run("mount", "--make-rshared", "/")  # or volumes would not reach containers
        self.run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
        self.run("mkdir", "/run/lock", "/run/netns")
        for path in _PRIVATE:
            Path(path).mkdir(parents=True, exist_ok=True)
            own = self._slot.folder / "private" / path.lstrip("/")
            own.mkdir(parents=True)
            self.run("mount", "--bind", str(own), path)
        settings = self._slot.folder / "kernel-settings"
        for name, value in _KERNEL_SETTINGS.items():
            file = settings / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{value}\n")
            self.run("mount", "--bind", str(file), f"/proc/sys/{name}")

    def _arrange_network(self) -> None:
        slot = self._slot
        self._ip(f"link add {slot.name} type veth peer name eth0 netns {self.first_pid}")
        self._ip(f"addr add {slot.gateway}/30 dev {slot.name}")
        self._ip(f"link set {slot.name} up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "addr", "add", f"{slot.node}/30", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", slot.gateway)
        self.run("ip", "link", "add", "cni0", "type", "bridge")
        self.run("ip", "addr", "add", f"{slot.pods[1]}/24", "dev", "cni0")
        self.run("ip", "link", "set", "cni0", "up")
        self._ip(f"route add {slot.block} via {slot.node}")  # pods and services, from tests too

    @staticmethod
    def _ip(arguments: str) -> None:
        done = subprocess.run(
            ["ip", *arguments.split()], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ClusterFailed(f"ip {arguments}: {done.stderr.strip()}")


def children(pid: int) -> list[int]:
    """Process ids of a single-threaded process's children, as this machine counts them."""
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listing.read_text().split()] if listing.exists() else []
