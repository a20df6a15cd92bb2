"""What the machine must have, checked as a whole before anything starts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from crucible.testing.cluster.failures import MachineUnfit
from crucible.testing.cluster.programs import all_built

_PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "busybox": "busybox-static",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
}
_PLUGIN_DIRS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
_CGROUPS = Path("/sys/fs/cgroup")


def check_machine() -> None:
    """Return if a cluster can be started here.

    Raises:
        MachineUnfit: with everything that is missing at once, and the command that brings it.
    """
    problems = find_problems()
    if problems:
        raise MachineUnfit("no Kubernetes can be started here: " + "; ".join(problems))


def find_problems() -> list[str]:
    """Everything that is missing, one sentence each; empty if a cluster can be started."""
    if sys.platform != "linux":
        return [f"a kubelet needs Linux, this is {sys.platform}"]
    problems = []
    if os.geteuid() != 0:
        problems.append("a kubelet needs root: run as root or with sudo")
    elif not _may_isolate():
        problems.append("namespaces may not be created: a container needs --privileged")
    elif not os.access(_CGROUPS, os.W_OK):
        problems.append(f"{_CGROUPS} is read-only: a container needs --privileged")
    packages = sorted({_PACKAGES[name] for name in _PACKAGES if shutil.which(name) is None})
    if plugin_dir() is None:
        packages.append("containernetworking-plugins")
    busybox = shutil.which("busybox")
    if busybox and not _is_static(Path(busybox)):
        packages.append("busybox-static")
    if packages:
        problems.append(f"programs are missing: apt-get install {' '.join(packages)}")
    if not all_built() and not _go_suffices():
        problems.append("Kubernetes is not built yet: install Go 1.26, or 1.21 which fetches it")
    return problems


def plugin_dir() -> Path | None:
    """Where the network plugins are, if all of them are."""
    for folder in _PLUGIN_DIRS:
        if all((folder / name).exists() for name in _PLUGINS):
            return folder
    return None


def _may_isolate() -> bool:
    if not (shutil.which("unshare") and shutil.which("busybox")):
        return True  # reported as missing programs
    trial = ["unshare", "--pid", "--fork", "--mount", "--net", "--mount-proc", "busybox", "true"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def _go_suffices() -> bool:
    """Older ones neither read the pins nor know how to get one that does."""
    if shutil.which("go") is None:
        return False
    version = subprocess.check_output(["go", "env", "GOVERSION"], text=True)
    numbers = re.findall(r"\d+", version)
    return [int(number) for number in numbers[:2]] >= [1, 21]


def _is_static(program: Path) -> bool:
    """Images hold nothing but this program, so it must not ask for a loader."""
    with program.open("rb") as file:
        return b"/ld-linux" not in file.read(4096)
