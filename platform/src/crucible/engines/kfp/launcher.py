"""``python -m crucible.engines.kfp.launcher``: the process of a step that runs on several nodes.

It stands where the step's own process stands in other pods, and leaves the same things behind. It
makes a TrainJob that its pod owns, shows what the job waits for and how far it is, passes on what
node 0 prints, and takes the job away with it when it has to go. Whether the step is tried again is
decided where that of every step is: by the pod's main loop, from the cause of the failure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crucible import logs
from crucible.artifacts.store import open_store
from crucible.cluster import Connection, connect
from crucible.cluster.pod_log import read_log
from crucible.cluster.pods import PodView, get_pod, list_pods
from crucible.cluster.trainjobs import (
    TrainJobView,
    create_trainjob,
    delete_trainjob,
    trainer_features,
    watch_trainjobs,
)
from crucible.engines.kfp.training_verdict import Verdict, verdict_of
from crucible.engines.kfp.training_watch import JOBSET_LABEL, LOOK_SECONDS, Look, TrainJobWatch
from crucible.engines.kfp.trainjob import (
    NODE,
    OWNER_LABEL,
    JobIdentity,
    Owner,
    TrainJobRequest,
    trainjob_manifest,
)
from crucible.errors import CrucibleError, ObjectConflict, ObjectNotFound, UserError
from crucible.journal import LineReader, StreamReader
from crucible.sdk.events import EventWriter
from crucible.sdk.executor import ExecutorInput, write_executor_output
from crucible.sdk.failure import FILE_NAME, FailureRecord, failure_of
from crucible.sdk.pod.board import Board
from crucible.sdk.process import Terminated, ignore_signals, unwinding_on_signals
from crucible.sdk.runner import deliver_from_cache
from crucible.settings import Settings
from crucible.specs.context import KubernetesSpec

logger = logging.getLogger(__name__)

_GONE_SECONDS = 15.0
"""How long the end of a cancelled job is waited for: the pod has 20 s, and its owner reference
does the rest."""
_PREDECESSOR_SECONDS = 300.0
_SETTLE_SECONDS = 10.0
"""How long the processes of a failed job may take to say why."""
_TAIL_LINES = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run the step; returns 0, or the exit code of its failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("component", help="what the nodes run")
    parser.add_argument("--executor-input", required=True, help="@FILE with it")
    parser.add_argument("--trainjob", required=True, type=Path, help="file of a TrainJobRequest")
    parser.add_argument("--attempt-prefix", required=True, help="part of the journal")
    arguments = parser.parse_args(argv)
    logs.configure(form="json" if os.environ.get("CRUCIBLE_LOG_FORMAT") == "json" else "text")
    request = ExecutorInput.parse(Path(arguments.executor_input[1:]).read_text())
    with unwinding_on_signals():
        try:
            failure = _run(arguments, request)
        except (CrucibleError, OSError, Terminated) as error:
            ignore_signals()
            failure = failure_of(error)
        if failure is None:
            return 0
        logger.error("%s: %s %s", failure.cause, failure.message, failure.fix)
        failure.write(request.output_file.parent / FILE_NAME)
        return failure.exit_code


def _run(arguments: argparse.Namespace, request: ExecutorInput) -> FailureRecord | None:
    store = open_store(os.environ.get("CRUCIBLE_STORE") or Settings.load().store_uri)
    if deliver_from_cache(request, store):
        return None
    wanted = TrainJobRequest.from_json(json.loads(arguments.trainjob.read_text()))
    board = Board(store.backend, arguments.attempt_prefix)
    board.write_request(request)
    connection = connect(KubernetesSpec(namespace=wanted.namespace))
    with contextlib.closing(EventWriter(Path(os.environ["CRUCIBLE_EVENTS"]))) as events:
        launch = _Launch(connection, wanted, request, board, events)
        return launch.run(arguments.component)


@dataclass
class _Launch:
    """One TrainJob from its making to its end."""

    connection: Connection
    wanted: TrainJobRequest
    request: ExecutorInput
    board: Board
    events: EventWriter
    _said: str = ""
    _printed: str = ""
    """Uid of the pod whose log is printed."""
    _relayed: LineReader | None = None
    _log_threads: list[threading.Thread] = field(default_factory=list)

    @property
    def identity(self) -> JobIdentity:
        step = self.request.step
        return JobIdentity(step.run_id, step.step_id, step.attempt)

    def run(self, component: str) -> FailureRecord | None:
        job = self._make(component)
        watch = TrainJobWatch(self.connection, self.wanted, job.name)
        try:
            look = self._follow(watch)
            return look.failure or self._judge(watch, look)
        finally:
            # One that has ended stays for people to look at, as long as this pod.
            if watch.last_job is None or not watch.last_job.is_finished:
                self._remove(job.name)

    def _make(self, component: str) -> TrainJobView:
        """The job of this attempt, after those of earlier ones have gone.

        Raises:
            UserError: there is no Trainer, or one that cannot do what is asked.
            ObjectRejected: an admission refuses the job.
        """
        features = trainer_features(self.connection)
        if features is None:
            raise UserError(
                f"step {self.request.step.step_id} runs on {self.wanted.nodes} nodes, which needs "
                "Kubeflow Trainer, and this cluster has none. Install it, see manifests/README.md."
            )
        owner = self._owner()
        manifest = trainjob_manifest(
            self.wanted,
            self.identity,
            owner,
            component=component,
            board_prefix=self.board.attempt_prefix,
            patch_field=features.patch_field,
        )
        self._clear_predecessors()
        job = create_trainjob(self.connection, self.wanted.namespace, manifest)
        if job.labels.get(OWNER_LABEL) != owner.uid:
            raise ObjectConflict(
                f"TrainJob {job.name} belongs to another pod. Delete it, or resume the run."
            )
        logger.info(
            "TrainJob %s: %d nodes of %s, image %s",
            *(job.name, self.wanted.nodes, component, self.wanted.image),
        )
        return job

    def _owner(self) -> Owner:
        """This pod, whose name Kubeflow Pipelines passes to every step."""
        name = os.environ.get("KFP_POD_NAME") or os.environ.get("HOSTNAME", "")
        pod = get_pod(self.connection, self.wanted.namespace, name)
        if pod is None:
            raise ObjectNotFound(
                f"this process is in no pod {name!r} of namespace {self.wanted.namespace}, so a "
                "TrainJob would have no owner. Check kubernetes.namespace of the context."
            )
        return Owner(pod.name, pod.uid)

    def _clear_predecessors(self) -> None:
        """End what pods that were lost have left running: two jobs must not write one checkpoint.

        Raises:
            ObjectConflict: one does not go.
        """
        deadline = time.monotonic() + _PREDECESSOR_SECONDS
        for job in self._jobs_of_step():
            logger.warning("TrainJob %s of an earlier attempt is removed", job.name)
            delete_trainjob(self.connection, self.wanted.namespace, job.name, uid=job.uid)
            while self._is_there(job):
                if time.monotonic() > deadline:
                    raise ObjectConflict(
                        f"TrainJob {job.name} of an earlier attempt does not go. See "
                        f"`kubectl describe trainjob {job.name}`, then resume the run."
                    )
                time.sleep(LOOK_SECONDS)

    def _jobs_of_step(self) -> list[TrainJobView]:
        found = []
        selector = self.identity.selector
        with watch_trainjobs(self.connection, self.wanted.namespace, selector) as watch:
            while not watch.is_synced:
                change = watch.get(timeout_seconds=1.0)
                if change is not None:
                    found.append(change.item)
        return found

    def _is_there(self, job: TrainJobView) -> bool:
        if any(each.uid == job.uid for each in self._jobs_of_step()):
            return True
        return any(not pod.is_finished for pod in self._pods(job.name))

    def _pods(self, name: str) -> list[PodView]:
        return list_pods(self.connection, self.wanted.namespace, f"{JOBSET_LABEL}={name}")

    def _follow(self, watch: TrainJobWatch) -> Look:
        """Show the job until it is over."""
        while True:
            look = watch.look()
            if look.job is not None and look.job.state == "suspended":
                self._relayed = None  # its processes begin anew, and so do their events
            if look.words != self._said:
                self._said = look.words
                logger.info("TrainJob %s: %s", watch.name, look.words)
                if not self._has_progress:
                    self.events.update(0.0, unit="steps", message=look.words)
            self._follow_log(watch)
            self._relay_events()
            if look.is_over or look.failure is not None:
                return look
            time.sleep(LOOK_SECONDS)

    @property
    def _has_progress(self) -> bool:
        """Whether the training itself tells how far it is."""
        return self._relayed is not None

    def _follow_log(self, watch: TrainJobWatch) -> None:
        """Print what node 0 prints, once it has a container that runs or ran."""
        pod = watch.pods.get(0)
        if pod is None or pod.phase == "Pending" or pod.uid == self._printed:
            return
        self._printed = pod.uid
        thread = threading.Thread(target=self._print_log, args=(pod.name,), daemon=True)
        thread.start()
        self._log_threads.append(thread)

    def _print_log(self, pod: str) -> None:
        try:
            namespace = self.wanted.namespace
            for line in read_log(self.connection, namespace, pod, NODE, follow=True):
                sys.stdout.write(f"{line.text}\n")
                sys.stdout.flush()
        except CrucibleError as error:
            logger.warning("the log of node 0 breaks off here: %s", error)

    def _relay_events(self) -> None:
        """Add what rank 0 tells to this step's own events, where everybody reads them."""
        reader = self._relayed or LineReader(
            StreamReader(self.board.backend, self.board.events_prefix(0))
        )
        try:
            lines = reader.read()
        except CrucibleError as error:
            logger.debug("%s", error)
            return
        if lines:
            self._relayed = reader
            with Path(os.environ["CRUCIBLE_EVENTS"]).open("a") as stream:
                stream.write("".join(f"{line}\n" for line in lines))

    def _judge(self, watch: TrainJobWatch, look: Look) -> FailureRecord | None:
        """None if the step is done; leaves its executor output where the pod looks for it."""
        if look.job is None:
            fix = "Resume the run: it goes on from the step's last checkpoint."
            return FailureRecord("killed", f"TrainJob {watch.name} was deleted", fix, 1)
        for thread in self._log_threads:
            thread.join(timeout=_SETTLE_SECONDS)
        if look.job is not None and look.job.state == "complete":
            outputs = self.board.read_output(self.request)
            if outputs is not None:
                self._relay_events()
                ignore_signals()
                write_executor_output(self.request.output_file, outputs)
                return None
        verdict = self._verdict(watch)
        self._print_tail(watch, verdict)
        return verdict.failure

    def _verdict(self, watch: TrainJobWatch) -> Verdict:
        """Why it failed, once every node has said what it can."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            said = self.board.read_failures(self.wanted.nodes)
            settled = len({each.node for each in said} | set(watch.lost)) >= self.wanted.nodes
            if settled or time.monotonic() > deadline:
                break
            time.sleep(LOOK_SECONDS / 2)
            watch.look()
        job = watch.last_job
        assert job is not None
        return verdict_of(
            job,
            watch.pods,
            said,
            lost=watch.lost,
            memory_gib=self.wanted.memory_gib,
        )

    def _print_tail(self, watch: TrainJobWatch, verdict: Verdict) -> None:
        """The last lines of the node to blame; those of node 0 are printed already."""
        if not verdict.node:
            return
        for line in self._last_lines(watch, verdict.node):
            sys.stdout.write(f"[node {verdict.node}] {line}\n")
        sys.stdout.flush()

    def _last_lines(self, watch: TrainJobWatch, node: int) -> list[str]:
        stream = StreamReader(self.board.backend, self.board.log_prefix(node))
        lines = list(LineReader(stream).read(final=True))
        pod = watch.pods.get(node)
        if not lines and pod is not None:
            with contextlib.suppress(CrucibleError):
                lines = list(self._pod_lines(pod.name))
        return lines[-_TAIL_LINES:]

    def _pod_lines(self, pod: str) -> Iterator[str]:
        for line in read_log(self.connection, self.wanted.namespace, pod, NODE, tail=_TAIL_LINES):
            yield line.text

    def _remove(self, name: str) -> None:
        """Delete the job, and wait a while for its pods to end: they may save a checkpoint."""
        ignore_signals()
        try:
            delete_trainjob(self.connection, self.wanted.namespace, name)
            deadline = time.monotonic() + _GONE_SECONDS
            while time.monotonic() < deadline:
                if all(pod.is_finished for pod in self._pods(name)):
                    return
                time.sleep(LOOK_SECONDS / 4)
            logger.warning("pods of TrainJob %s still end", name)
        except CrucibleError as error:
            logger.warning("%s It goes with this pod.", error)


if __name__ == "__main__":
    sys.exit(main())
