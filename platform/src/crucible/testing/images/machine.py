"""What a machine must have for images to be built on it from Debian's and PyPI's packages."""

from __future__ import annotations

import os
import shutil
import sys

BASE_IMAGE_VARIABLE = "CRUCIBLE_TEST_BASE_IMAGE"
"""A Debian with Python 3.11 to use instead of one made here, where a registry can be reached."""
_PACKAGES = {"buildah": "buildah", "podman": "podman", "runc": "runc"}


class MachineUnfit(RuntimeError):
    """Images cannot be built here; the message names everything that is missing."""


def check_machine() -> None:
    """Return if images can be built here.

    Raises:
        MachineUnfit: with everything that is missing, and the command that brings it.
    """
    problems = find_problems()
    if problems:
        raise MachineUnfit("no images can be built here: " + "; ".join(problems))


def find_problems() -> list[str]:
    """Everything that is missing, one sentence each."""
    if sys.platform != "linux":
        return [f"containers need Linux, this is {sys.platform}"]
    problems = []
    if os.geteuid() != 0:
        problems.append("a file system with owners of its own needs root: run as root or with sudo")
    needed = dict(_PACKAGES)
    if not os.environ.get(BASE_IMAGE_VARIABLE):
        needed["mmdebstrap"] = "mmdebstrap"
    missing = sorted({package for program, package in needed.items() if not shutil.which(program)})
    if missing:
        problems.append(f"programs are missing: apt-get install {' '.join(missing)}")
    return problems
