"""Runs the pods of a compiled pipeline on a Kubernetes.

Pods that have ended are kept, as Argo keeps them: they tell why. They go with their namespace.
"""

from __future__ import annotations

import base64
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crucible.cluster import Connection
from crucible.cluster.paths import path_of
from crucible.cluster.pods import PodView, get_pod
from crucible.errors import ClusterError, ObjectConflict
from crucible.testing.kfp_driver import launcher
from crucible.testing.kfp_driver.pod_spec import LAUNCHER, pod_manifest
from crucible.testing.kfp_driver.pods import TERMINATED, Fault, Pod, PodEnd

logger = logging.getLogger(__name__)

Json = dict[str, Any]

_LOOK_SECONDS = 0.5
_LOG_TAIL_LINES = 200
_MAX_NAME_CHARS = 63


@dataclass
class PodRunner:
    """Implements `crucible.testing.kfp_driver.pods.Runner`."""

    connection: Connection
    namespace: str
    bucket_environ: Mapping[str, str]
    """Where launchers find the bucket, as pods reach it."""
    service_account: str = "default"
    start_seconds: float = 180.0
    """A pod that does not run by then is given up: KFP itself would wait for ever."""
    change: Callable[[Json], Json] = lambda manifest: manifest
    """Last hand on a pod's manifest, for what a test's cluster cannot give."""
    kill: Callable[[str], None] | None = None
    """Kills the processes of a container by its id, for faults of that kind."""
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """By name of a pod: how long it waited to run, and how long it ran."""

    def prepare(self) -> None:
        """Give the namespace the launcher's file and its access to the bucket."""
        code = Path(launcher.__file__).read_text()
        secret = {k: base64.b64encode(v.encode()).decode() for k, v in self.bucket_environ.items()}
        for plural, kind, data in (
            ("configmaps", "ConfigMap", {"launcher.py": code}),
            ("secrets", "Secret", secret),
        ):
            body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": LAUNCHER}, "data": data}
            path = path_of("v1", plural, namespace=self.namespace)
            try:
                self.connection.create(f"create {kind} {LAUNCHER}", path, body)
            except ObjectConflict:
                where = f"{path}/{LAUNCHER}"
                self.connection.request(f"change {kind} {LAUNCHER}", "PATCH", where, body=body)

    def run(self, pod: Pod) -> PodEnd:
        """Run ``pod`` to its end."""
        name = _name(pod)
        manifest = pod_manifest(pod, service_account=self.service_account)
        manifest["metadata"]["name"] = name
        path = path_of("v1", "pods", namespace=self.namespace)
        self.connection.create(f"create pod {name}", path, self.change(manifest))
        return self._follow(pod, name)

    def _follow(self, pod: Pod, name: str) -> PodEnd:
        begun = time.monotonic()
        faults = [fault for fault in pod.faults if fault.kind in ("kill", "delete")]
        log = ""
        while True:
            view = get_pod(self.connection, self.namespace, name)
            if view is None:
                return TERMINATED if pod.terminated() else PodEnd("error", "pod deleted", log)
            if view.is_finished:
                self.seconds[name] = _seconds(view)
                log = self._log(name) or log
                failed = view.phase == "Failed"
                return PodEnd("failed" if failed else "succeeded", view.failure, log)
            if pod.terminated() and view.deleted_at is None:
                self._delete(name)
            elif view.phase == "Running":
                faults = [fault for fault in faults if not self._strikes(fault, view)]
            elif time.monotonic() - begun > self.start_seconds:
                self._delete(name)
                return PodEnd("error", f"it does not start: {view.obstacle or view.phase}", log)
            time.sleep(_LOOK_SECONDS)

    def _strikes(self, fault: Fault, view: PodView) -> bool:
        """Let ``fault`` happen if it is its time; True if it did."""
        if not fault.when():
            return False
        if fault.kind == "delete":
            self._delete(view.name)
        elif self.kill is not None:
            self.kill(self._container_id(view.name))
        else:
            raise ValueError("this runner cannot kill: give it the means")
        return True

    def _container_id(self, name: str) -> str:
        path = path_of("v1", "pods", namespace=self.namespace, name=name)
        status = self.connection.get(f"read pod {name}", path)["status"]
        return str(status["containerStatuses"][0]["containerID"]).rpartition("/")[2]

    def _log(self, name: str) -> str:
        path = path_of("v1", "pods", namespace=self.namespace, name=name, part="log")
        query: dict[str, str | int | bool | None] = {"tailLines": _LOG_TAIL_LINES}
        try:
            response = self.connection.open(f"read the log of {name}", path, query)
        except ClusterError as error:
            logger.warning("no log of %s: %s", name, error)
            return ""
        try:
            return response.read().decode(errors="replace")
        finally:
            response.release_conn()

    def _delete(self, name: str) -> None:
        path = path_of("v1", "pods", namespace=self.namespace, name=name)
        self.connection.delete(f"delete pod {name}", path)


def _name(pod: Pod) -> str:
    """A pod's name; the end of it tells pods apart."""
    text = re.sub(r"[^a-z0-9-]+", "-", pod.name.lower())
    return text[-_MAX_NAME_CHARS:].strip("-")


def _seconds(view: PodView) -> dict[str, float]:
    main = view.container("main")
    started = (main.started_at if main else None) or view.created_at
    finished = (main.finished_at if main else None) or started
    return {"waited": started - view.created_at, "ran": finished - started}
