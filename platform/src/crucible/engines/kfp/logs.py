"""A step's log, wherever it is: in the journal, in the pod, or in what KFP has stored of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from crucible.cluster.pod_log import read_log
from crucible.cluster.workflows import find_workflow
from crucible.engines.kfp.api import PipelinesApi
from crucible.engines.kfp.following import RunFollower
from crucible.engines.kfp.session import Session
from crucible.engines.state import StepState
from crucible.errors import ObjectNotFound, UserError
from crucible.journal import LineReader
from crucible.sdk.suggestion import did_you_mean

_LOOK_SECONDS = 2.0


def step_lines(session: Session, run: RunFollower, step_id: str, *, follow: bool) -> Iterator[str]:
    """Lines of the newest attempt's log, without line ends.

    A step writes its log to the journal every few seconds and at its end, so that it can be read
    when the pod is gone. With ``follow`` what comes is waited for, further attempts included, until
    the step ends. What a pod said that never got as far as the journal, it told Kubernetes.

    Raises:
        UserError: the run has no such step.
    """
    attempt = _step(run, step_id).attempt
    if not attempt and not follow and run.kfp is not None:
        yield from task_lines(session, run.kfp.id, step_id.partition("[")[0], follow=False)
        return
    while True:
        yield from _attempt_lines(run, step_id, attempt, follow=follow)
        newest = _step(run, step_id).attempt
        if not follow or newest <= attempt:
            return
        attempt = newest


def _attempt_lines(run: RunFollower, step_id: str, attempt: int, *, follow: bool) -> Iterator[str]:
    reader = LineReader(run.journal.log(step_id, attempt)) if attempt else None
    while True:
        step = _step(run, step_id)  # before reading: what an ended attempt wrote is complete
        over = step.attempt > attempt or step.status.is_final
        if reader is not None:
            yield from reader.read(final=over or not follow)
        if over or not follow:
            return
        time.sleep(_LOOK_SECONDS)


def _step(run: RunFollower, step_id: str) -> StepState:
    state = run.look()
    if step_id not in state.steps:
        hint = did_you_mean(step_id, state.steps)
        raise UserError(f"run {state.run_id} has no step {step_id!r}. {hint}")
    return state.steps[step_id]


def task_lines(session: Session, kfp_run_id: str, task: str, *, follow: bool) -> Iterator[str]:
    """Lines of the newest pod of a task, as Kubernetes has them or, when it is gone, as KFP does.

    Raises:
        UserError: there is no such pod yet, or its log is nowhere.
        CrucibleError: the cluster cannot be asked.
    """
    namespace = session.context.kubernetes.namespace
    workflow = find_workflow(session.connection, namespace, kfp_run_id)
    ours = re.compile(rf"\.{re.escape(task)}(\.executor)?(\(\d+\))?\Z")
    nodes = [n for n in (workflow.nodes if workflow else ()) if n.pod_name and ours.search(n.path)]
    if not nodes:
        raise UserError(f"{task} of run {kfp_run_id} has no pod yet. See platformctl why.")
    pod_name = max(nodes, key=lambda node: node.started_at or 0.0).pod_name
    try:
        for line in read_log(session.connection, namespace, pod_name, "main", follow=follow):
            yield line.text
    except ObjectNotFound:
        yield from _stored_lines(session.api, kfp_run_id, pod_name)


def _stored_lines(api: PipelinesApi, kfp_run_id: str, pod_name: str) -> Iterator[str]:
    """From Argo's archive, which KFP answers for with 200 and a message where it has none."""
    text = api.node_log(kfp_run_id, pod_name)
    if text.startswith('{"error_message"'):
        raise UserError(f"the log of pod {pod_name} is gone: neither the cluster nor KFP has it.")
    yield from text.splitlines()
