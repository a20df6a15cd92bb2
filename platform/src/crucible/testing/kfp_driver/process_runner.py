"""Runs the pods of a compiled pipeline as processes of this machine, in sandboxes.

The image is this installation. What a pod has that a process can have is there: environment with
what Secrets and ConfigMaps give, the volumes of KFP and of the platform document, the deadline.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crucible.testing.kfp_driver import launcher
from crucible.testing.kfp_driver.pod_spec import KFP_VOLUMES
from crucible.testing.kfp_driver.pods import TERMINATED, Fault, Pod, PodEnd
from crucible.testing.kfp_driver.sandbox import sandboxed

Json = dict[str, Any]
Values = Mapping[str, Mapping[str, str]]

_LOOK_SECONDS = 0.02
_GRACE_SECONDS = 30.0
_LOG_TAIL_BYTES = 16_384


@dataclass
class ProcessRunner:
    """Implements `crucible.testing.kfp_driver.pods.Runner`."""

    folder: Path
    """For logs and, while a pod runs, its volumes."""
    bucket_environ: Mapping[str, str]
    """Where launchers find the bucket."""
    mounts: Sequence[Path] = ()
    """Folders below ``/tmp`` that pods see as they are; of the others they see all."""
    secrets: Values = field(default_factory=dict)
    """Values by key, by name of the Secret."""
    config_maps: Values = field(default_factory=dict)

    def run(self, pod: Pod) -> PodEnd:
        """Run ``pod`` to its end."""
        log = self.folder / f"{pod.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            environ = self._environ(pod)
        except KeyError as error:
            return PodEnd("error", f"CreateContainerConfigError: {error.args[0]} not found")
        with tempfile.TemporaryDirectory(prefix="pod-", dir=self.folder) as folder:
            command = self._command(pod, Path(folder))
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command, env=environ, stdin=subprocess.DEVNULL, stdout=output,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
                try:
                    end = _follow(process, pod)
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    process.wait()
        return PodEnd(end.phase, end.message, _tail(log))

    def _command(self, pod: Pod, folder: Path) -> list[str]:
        volumes = {
            *KFP_VOLUMES.values(),
            *(v["mountPath"] for v in pod.kubernetes.get("emptyDirMounts", ())),
        }
        binds: dict[str, Path] = {str(path): path for path in self._visible()}
        for number, target in enumerate(sorted(volumes)):
            binds[target] = folder / str(number)
            binds[target].mkdir()
        root = folder / "root"
        root.mkdir()
        start = [sys.executable, "-P", launcher.__file__, *pod.flags, "--", *pod.command]
        return sandboxed(start, root=root, binds=binds)

    def _visible(self) -> Iterator[Path]:
        """What of ``/tmp`` is mounted: what was asked for, and what this installation needs."""
        code = (sys.prefix, sys.base_prefix, *filter(None, sys.path), launcher.__file__)
        bucket = self.bucket_environ.get(f"{launcher.ENV_PREFIX}FOLDER")
        for path in (*map(Path, code), *self.mounts, *([Path(bucket)] if bucket else ())):
            found = path if path.is_dir() else path.parent
            if found.is_relative_to("/tmp") and found.is_dir():
                yield found

    def _environ(self, pod: Pod) -> dict[str, str]:
        programs = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        given: dict[str, str] = {
            "PATH": programs,
            "HOSTNAME": pod.name,
            "KFP_POD_NAME": pod.name,
            "KFP_POD_UID": pod.name,
            **self.bucket_environ,
            **pod.environ,
        }
        config = pod.kubernetes
        for entry in config.get("secretAsEnv", ()):
            given |= _from(self.secrets, "secret", entry, "secretName", "secretKey")
        for entry in config.get("configMapAsEnv", ()):
            given |= _from(self.config_maps, "configmap", entry, "configMapName", "configMapKey")
        return given


def _from(values: Values, kind: str, entry: Json, name: str, key: str) -> dict[str, str]:
    """Variables that an entry of the platform document takes from a Secret or ConfigMap."""
    found: dict[str, str] = {}
    for pair in entry["keyToEnv"]:
        holder = values.get(entry[name], {})
        if pair[key] in holder:
            found[pair["envVar"]] = holder[pair[key]]
        elif not entry.get("optional"):
            raise KeyError(f'{kind} "{entry[name]}" key {pair[key]}')
    return found


def _follow(process: subprocess.Popen[bytes], pod: Pod) -> PodEnd:
    """Wait for the end, whatever brings it."""
    seconds = pod.kubernetes.get("activeDeadlineSeconds")
    deadline = None if seconds is None else time.monotonic() + float(seconds)
    faults = [fault for fault in pod.faults if fault.kind in ("kill", "delete")]
    while process.poll() is None:
        time.sleep(_LOOK_SECONDS)
        if deadline is not None and time.monotonic() > deadline:
            _end(process)
            return PodEnd("failed", "Pod was active on the node longer than the specified deadline")
        if pod.terminated():
            _end(process)
            return TERMINATED
        for fault in faults:
            if fault.when():
                return _strike(process, fault)
    if process.returncode == 0:
        return PodEnd("succeeded")
    return PodEnd("failed", f"main: Error (exit code {process.returncode})")


def _strike(process: subprocess.Popen[bytes], fault: Fault) -> PodEnd:
    if fault.kind == "kill":
        process.kill()
        process.wait()
        return PodEnd("failed", "main: Error (exit code 137)")
    _end(process)
    return PodEnd("error", "pod deleted")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the container as a kubelet does: its first process is asked, and in the end killed."""
    with contextlib.suppress(ProcessLookupError):
        for first in _children(process.pid):
            os.kill(first, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_SECONDS)
    process.kill()
    process.wait()


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _tail(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        return stream.read().decode(errors="replace")
