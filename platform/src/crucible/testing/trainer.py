"""Plays Kubeflow Trainer and JobSet for tests: makes the pods of TrainJobs and tells how they fare.

Follows ``pkg/runtime/framework/plugins/{torch,jobset}`` and ``pkg/controller`` of kubeflow/trainer
2.3 and JobSet 0.12 in what a job of the runtime `crucible-torch` shows from outside: the names of
pods, their index, headless Service and ``PET_*`` variables; suspension; a job that fails with its
first pod and takes the others with it. The runtime is read from the cluster. Left out is everything
else, e.g. initializers and restarts of pods.
"""

from __future__ import annotations

import copy
import logging
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crucible.cluster import Connection
from crucible.cluster.paths import path_of
from crucible.cluster.trainjobs import API_VERSION, PLURAL
from crucible.errors import ObjectConflict

logger = logging.getLogger(__name__)

Json = dict[str, Any]

JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
_PORT = 29500
_LOOK_SECONDS = 0.3


@dataclass
class TrainerDouble:
    """Runs in a thread of the test. Use as a context manager."""

    connection: Connection
    namespace: str
    holds_back: bool = False
    """Suspend every new job, as Kueue does until there is quota."""
    errors: list[str] = field(default_factory=list)
    """What it could not do."""
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> TrainerDouble:
        self._thread = threading.Thread(target=self._run, name="trainer", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._over.set()
        assert self._thread is not None
        self._thread.join()

    def jobs(self) -> list[Json]:
        """The TrainJobs of the namespace."""
        path = path_of(API_VERSION, PLURAL, namespace=self.namespace)
        return self.connection.items("list TrainJobs", path)[0]

    def pods(self, name: str) -> list[Json]:
        """The pods of a TrainJob that are not going, by index."""
        query = {"labelSelector": f"{JOBSET_LABEL}={name}"}
        found, _ = self.connection.items("list pods", self._path("pods"), query)
        kept = [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]
        return sorted(kept, key=lambda pod: int(pod["metadata"]["labels"][INDEX_LABEL]))

    def suspend(self, name: str, suspended: bool) -> None:
        """What Kueue does to take a job's quota, or to give it some."""
        path = path_of(API_VERSION, PLURAL, namespace=self.namespace, name=name)
        body = {"spec": {"suspend": suspended}}
        self.connection.request(f"suspend {name}", "PATCH", path, body=body)

    def _run(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            try:
                for job in self.jobs():
                    if not job["metadata"].get("deletionTimestamp"):
                        self._reconcile(job)
            except Exception as error:
                logger.exception("what a TrainJob needs could not be done")
                self.errors.append(str(error))

    def _reconcile(self, job: Json) -> None:
        name = job["metadata"]["name"]
        true = {c["type"] for c in _conditions(job) if c["status"] == "True"}
        if true & {"Complete", "Failed"}:
            return
        is_new = not any(each["type"] == "Suspended" for each in _conditions(job))
        if self.holds_back and is_new and not job["spec"].get("suspend"):
            self.suspend(name, True)
            return
        pods = self.pods(name)
        if job["spec"].get("suspend"):
            self._delete(pods)
            self._tell(job, pods, "Suspended", "True", "Suspended")
            return
        if "Suspended" in true:
            self._tell(job, pods, "Suspended", "False", "Resumed")
        phases = [pod["status"].get("phase") for pod in pods]
        count = job["spec"]["trainer"]["numNodes"]
        if "Failed" in phases or (pods and len(pods) < count):
            self._delete([pod for pod in pods if pod["status"].get("phase") != "Failed"])
            self._tell(job, pods, "Failed", "True", "FailedJobs", "jobset failed due to failed job")
        elif not pods:
            self._make(job, count)
        elif phases == ["Succeeded"] * count:
            self._tell(job, pods, "Complete", "True", "AllJobsCompleted")
        else:
            self._tell(job, pods)

    def _make(self, job: Json, count: int) -> None:
        name = job["metadata"]["name"]
        service = {
            "metadata": {"name": name, "ownerReferences": [_owner(job)]},
            "spec": {
                "clusterIP": "None",
                "selector": {JOBSET_LABEL: name},
                "publishNotReadyAddresses": True,
            },
        }
        try:
            self._create("services", "Service", service)
        except ObjectConflict:
            logger.debug("Service %s is there", name)
        template = self._template(job)
        for index in range(count):
            self._create("pods", "Pod", _pod(job, template, index))

    def _template(self, job: Json) -> Json:
        """The pod template of the job's runtime, with what the job sets and patches."""
        runtime = job["spec"]["runtimeRef"]["name"]
        path = path_of(API_VERSION, "clustertrainingruntimes", name=runtime)
        found = self.connection.get(f"read runtime {runtime}", path)
        [replicated] = found["spec"]["template"]["spec"]["replicatedJobs"]
        template: Json = copy.deepcopy(replicated["template"]["spec"]["template"])
        for patch in job["spec"].get("runtimePatches", ()):
            spec = patch["trainingRuntimeSpec"]["template"]["spec"]
            for each in spec["replicatedJobs"]:
                if each["name"] == replicated["name"]:
                    template = merged(template, each["template"]["spec"]["template"])
        trainer = job["spec"]["trainer"]
        [container] = [c for c in template["spec"]["containers"] if c["name"] == "node"]
        container |= {key: trainer[key] for key in ("image", "command", "args")}
        container["resources"] = trainer["resourcesPerNode"]
        container["env"] = [*trainer["env"], *_pet(job)]
        return template

    def _create(self, plural: str, kind: str, body: Json) -> None:
        manifest = {"apiVersion": "v1", "kind": kind, **body}
        self.connection.create(f"create {kind}", self._path(plural), manifest)

    def _delete(self, pods: list[Json]) -> None:
        for pod in pods:
            name = pod["metadata"]["name"]
            self.connection.delete(f"delete pod {name}", f"{self._path('pods')}/{name}")

    def _tell(self, job: Json, pods: list[Json], *condition: str) -> None:
        """Write the status, if it is not that already."""
        phases = [pod["status"].get("phase") for pod in pods]
        counts = {"ready": int(bool(phases) and set(phases) == {"Running"})}
        counts |= dict.fromkeys(("active", "succeeded", "failed", "suspended"), 0)
        counts["active"] = int("Running" in phases or "Pending" in phases)
        conditions = _conditions(job)
        if condition:
            type_, status, reason, *message = condition
            conditions = [each for each in conditions if each["type"] != type_]
            now = _now()
            conditions.append({
                "type": type_, "status": status, "reason": reason,
                "message": " ".join(message), "lastTransitionTime": now,
            })  # fmt: skip
        told = {"conditions": conditions, "jobsStatus": [{"name": "node", **counts}]}
        before = job.get("status") or {}
        known = {c["type"]: c["status"] for c in before.get("conditions") or []}
        same = known == {c["type"]: c["status"] for c in conditions}
        if same and before.get("jobsStatus") == told["jobsStatus"]:
            return
        name = job["metadata"]["name"]
        path = path_of(API_VERSION, PLURAL, namespace=self.namespace, name=name, part="status")
        self.connection.request(f"tell {name}", "PATCH", path, body={"status": told})

    def _path(self, plural: str) -> str:
        return path_of("v1", plural, namespace=self.namespace)


def merged(base: Any, patch: Any) -> Any:
    """``base`` with ``patch`` over it; entries of lists are matched by name, as in Kubernetes."""
    if isinstance(base, Mapping) and isinstance(patch, Mapping):
        both = {key: merged(base[key], patch[key]) for key in base.keys() & patch.keys()}
        return {**base, **patch, **both}
    named = isinstance(base, list) and isinstance(patch, list)
    if named and all("name" in entry for entry in (*base, *patch)):
        by_name = {entry["name"]: entry for entry in base}
        for entry in patch:
            by_name[entry["name"]] = merged(by_name.get(entry["name"], {}), entry)
        return list(by_name.values())
    return patch


def _pod(job: Json, template: Json, index: int) -> Json:
    name = job["metadata"]["name"]
    host = f"{name}-node-0-{index}"
    metadata = copy.deepcopy(template.get("metadata") or {})
    labels = {**metadata.get("labels", {}), JOBSET_LABEL: name, INDEX_LABEL: str(index)}
    annotations = {**metadata.get("annotations", {}), INDEX_LABEL: str(index)}
    return {
        "metadata": {
            "name": f"{host}-{secrets.token_hex(3)}",
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [_owner(job)],
        },
        "spec": {
            **copy.deepcopy(template["spec"]),
            "restartPolicy": "Never",
            "hostname": host,
            "subdomain": name,
        },
    }


def _pet(job: Json) -> list[Json]:
    name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
    index = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX_LABEL}']"}}
    return [
        {"name": "PET_NNODES", "value": str(trainer["numNodes"])},
        {"name": "PET_NPROC_PER_NODE", "value": str(trainer.get("numProcPerNode", "auto"))},
        {"name": "PET_NODE_RANK", "valueFrom": index},
        {"name": "PET_MASTER_ADDR", "value": f"{name}-node-0-0.{name}"},
        {"name": "PET_MASTER_PORT", "value": str(_PORT)},
    ]


def _owner(job: Json) -> Json:
    metadata = job["metadata"]
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainJob",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }


def _conditions(job: Json) -> list[Json]:
    return list((job.get("status") or {}).get("conditions") or [])


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
