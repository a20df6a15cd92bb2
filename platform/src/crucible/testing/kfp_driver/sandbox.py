"""The machine as a container would see it: KFP's fixed paths, and nothing left behind.

KFP puts files at absolute paths (``/s3/…``, ``/tmp/kfp/outputs/…``), which a test must not make on
the machine it runs on. So a process gets a root folder of its own, in a mount namespace: an empty
tmpfs with everything of ``/`` bound into it but ``/tmp``, and with what a pod has as volumes. It
gets a pid namespace too, so that killing its first process kills all, as with a pod.

This separates paths and processes. It is no boundary for security: user, network and files are the
machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

_SCRIPT = r"""
root=$1; shift
mount -t tmpfs -o mode=755 tmpfs "$root"
for entry in /*; do
  here=$root$entry
  if [ "$entry" = /tmp ]; then mkdir -m 1777 "$here"
  elif [ -L "$entry" ]; then cp -P "$entry" "$here"
  elif [ -d "$entry" ]; then mkdir "$here"; mount --rbind "$entry" "$here"
  elif [ -f "$entry" ]; then : > "$here"; mount --bind "$entry" "$here"
  fi
done
while [ "$1" != -- ]; do
  mkdir -p "$root$2"; mount --rbind "$1" "$root$2"; shift 2
done
shift
cd "$root"
exec chroot "$root" "$@"
"""


class NoSandbox(RuntimeError):
    """This machine gives its user no namespaces; the message says what failed."""


def sandboxed(command: Sequence[str], *, root: Path, binds: Mapping[str, Path]) -> list[str]:
    """``command`` as it is run in a root folder of its own.

    Args:
        command: what to run, with a full path or one to look up there.
        root: an empty folder, to be mounted on; it stays empty outside.
        binds: folders by where they are seen. A target that the machine has is hidden by it; one
            that it lacks must be below ``/tmp`` or be at the top.

    Raises:
        NoSandbox: see there.
        ValueError: a target would have to be made on the machine.
    """
    check_sandbox()
    for target in binds:
        if not _can_be_made(Path(target)):
            raise ValueError(f"{target}: would be made on this machine")
    pairs = [part for target, source in binds.items() for part in (str(source), target)]
    return [*_unshare(), "/bin/sh", "-ec", _SCRIPT, "sandbox", str(root), *pairs, "--", *command]


@cache
def check_sandbox() -> None:
    """Raise `NoSandbox` unless namespaces work here."""
    program = shutil.which("unshare")
    if program is None:
        raise NoSandbox("no unshare here. Install util-linux")
    probe = [*_unshare(), "/bin/sh", "-ec", "mount -t tmpfs tmpfs /tmp"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoSandbox(f"no mount namespace for this user: {done.stderr.strip()}")


def _can_be_made(target: Path) -> bool:
    return target.is_dir() or target.is_relative_to("/tmp") or len(target.parts) == 2


def _unshare() -> list[str]:
    program = shutil.which("unshare") or "unshare"
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [program, *user, "--mount", "--pid", "--fork", "--kill-child"]
