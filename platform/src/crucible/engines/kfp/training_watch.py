"""What a TrainJob is doing: one look at a time, in words, and when it is over.

Looks are plain requests every two seconds, not watches: one job and a few pods, and after a break
of the connection there is nothing to mend. A cluster that does not answer is asked again for as
long as it takes: the training does not depend on it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from crucible.cluster import Connection
from crucible.cluster.pods import PodView, list_pods
from crucible.cluster.queues import queue_view
from crucible.cluster.trainjobs import TrainJobView, get_trainjob
from crucible.engines.kfp.reasons import obstacle_of
from crucible.engines.kfp.training_verdict import node_of
from crucible.engines.kfp.trainjob import TrainJobRequest
from crucible.engines.state import FailureCause
from crucible.errors import ClusterRefused, ClusterUnavailable
from crucible.sdk.failure import FailureRecord

logger = logging.getLogger(__name__)

JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
LOOK_SECONDS = 2.0
_HOPELESS_SECONDS = 180.0
"""How long a pod may be unable to start for a reason that nobody mends by waiting: a registry that
is away comes back sooner."""
_HOPELESS = (FailureCause.IMAGE, FailureCause.CONFIGURATION)


@dataclass(frozen=True)
class Look:
    """The job at one moment."""

    job: TrainJobView | None
    """None if it is gone."""
    words: str
    """What it is doing or waits for."""
    is_over: bool
    failure: FailureRecord | None = None
    """Why it must be ended, though it has not ended itself."""


@dataclass
class TrainJobWatch:
    """Looks at one TrainJob."""

    connection: Connection
    request: TrainJobRequest
    name: str
    clock: Callable[[], float] = time.monotonic
    pods: dict[int, PodView] = field(default_factory=dict)
    """The newest pod of each node, as it was last seen: it may be gone."""
    lost: list[int] = field(default_factory=list)
    """Nodes whose pods went away before they had ended, in that order."""
    last_job: TrainJobView | None = None
    _waits_since: float | None = None
    _runs_since: float | None = None
    _stuck_since: float | None = None

    def look(self) -> Look:
        """The job now. Raises as `Connection.call`, but for a cluster that does not answer."""
        while True:
            try:
                return self._look()
            except ClusterUnavailable as error:
                logger.warning("%s The training goes on meanwhile.", error)

    def _look(self) -> Look:
        self._note_pods()  # first: a job whose pods are gone because it is suspended says so
        job = get_trainjob(self.connection, self.request.namespace, self.name)
        if job is None:
            return Look(None, "it is gone", is_over=True)
        self.last_job = job
        if job.is_finished:
            return Look(job, job.state, is_over=True)
        if job.state == "suspended":
            return self._suspended(job)
        self._waits_since = None
        if self._runs_since is None:
            self._runs_since = self.clock()
        if self.lost or any(pod.phase == "Failed" for pod in self.pods.values()):
            return Look(job, "a node has failed", is_over=True)
        return self._running(job)

    def _note_pods(self) -> None:
        selector = f"{JOBSET_LABEL}={self.name}"
        found = list_pods(self.connection, self.request.namespace, selector)
        numbered = [(node, pod) for pod in found if (node := node_of(pod)) is not None]
        current = dict(sorted(numbered, key=lambda each: each[1].created_at))
        for node, before in self.pods.items():
            if node not in current and not before.is_finished and node not in self.lost:
                self.lost.append(node)
        self.pods |= current

    def _suspended(self, job: TrainJobView) -> Look:
        """Its pods are taken away on purpose; the time for the work itself begins anew."""
        self._runs_since, self._stuck_since = None, None
        self.pods.clear()
        self.lost.clear()
        if self._waits_since is None:
            self._waits_since = self.clock()
        limit = self.request.queued_timeout_seconds
        words = self._place_in_queue(job)
        failure = None
        if limit is not None and self.clock() - self._waits_since > limit:
            message = f"got no quota in {limit / 60:g} min: {words}"
            fix = "Wait for quota, raise the context's trainer.queued_timeout_minutes, or resume."
            failure = FailureRecord(FailureCause.QUOTA.value, message, fix, 1)
        return Look(job, words, is_over=False, failure=failure)

    def _place_in_queue(self, job: TrainJobView) -> str:
        try:
            view = queue_view(self.connection, self.request.namespace, job.uid)
        except ClusterRefused as error:
            logger.debug("%s", error)
            view = None
        if view is not None and not view.is_admitted:
            return str(view)
        queue = f" of queue {self.request.queue}" if self.request.queue else ""
        return f"suspended: waiting for quota{queue}"

    def _running(self, job: TrainJobView) -> Look:
        running = sum(pod.phase == "Running" for pod in self.pods.values())
        words = f"{running} of {self.request.nodes} nodes run"
        obstacles = {node: found for node, pod in sorted(self.pods.items())
                     if (found := obstacle_of(pod)) is not None}  # fmt: skip
        for node, obstacle in obstacles.items():
            words += f"; node {node} does not start: {obstacle.message}"
        failure = self._overdue(words)
        hopeless = next(((n, o) for n, o in obstacles.items() if o.cause in _HOPELESS), None)
        if hopeless is None:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = self.clock()
        elif self.clock() - self._stuck_since > _HOPELESS_SECONDS:
            node, found = hopeless
            message = f"node {node} does not start: {found.message}"
            failure = FailureRecord(found.cause.value, message, found.fix, 1)
        return Look(job, words, is_over=False, failure=failure)

    def _overdue(self, words: str) -> FailureRecord | None:
        limit, since = self.request.timeout_seconds, self._runs_since
        if limit is None or since is None or self.clock() - since <= limit:
            return None
        message = f"took longer than {limit / 60:g} min: {words}"
        fix = "Raise the step's timeout_minutes, or find in its log where it hangs; then resume."
        return FailureRecord(FailureCause.TIMEOUT.value, message, fix, 1)
