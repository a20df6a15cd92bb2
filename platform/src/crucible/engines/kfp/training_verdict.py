"""Why a TrainJob ended badly: from what its processes said, its pods, and Trainer, one reason.

When one process of a job dies, all others fail soon after, for want of it. So what counts is the
first failure that is not such a consequence; a node that the cluster took away is a temporary
fault, after which a new attempt goes on from the last checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from crucible.cluster.pods import PodView
from crucible.cluster.trainjobs import TrainJobView
from crucible.engines.kfp.reasons import failure_of_pod
from crucible.engines.state import FailureCause
from crucible.errors import EXIT_TEMPORARY
from crucible.sdk.failure import PEER_LOST, FailureRecord
from crucible.sdk.pod.board import RankFailure

_INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
_CONSEQUENCES = (PEER_LOST, "killed")
"""Causes of processes that ended because something else did."""
_SIGNALLED = 128
"""Exit codes above are those of processes that a signal ended."""
_AGAIN = "It is tried again by itself, from the last checkpoint, as often as the step's retry says."


@dataclass(frozen=True)
class Verdict:
    """Why, and whose last lines tell more."""

    failure: FailureRecord
    node: int | None
    """None if no node is to blame."""


def node_of(pod: PodView) -> int | None:
    """Number of the node that a pod is; None for one that is none."""
    text = pod.labels.get(_INDEX_LABEL) or pod.annotations.get(_INDEX_LABEL) or ""
    return int(text) if text.isdigit() else None


def verdict_of(
    job: TrainJobView,
    pods: Mapping[int, PodView],
    said: Iterable[RankFailure],
    *,
    lost: Iterable[int],
    memory_gib: float,
) -> Verdict:
    """The reason.

    Args:
        job: as it was last seen.
        pods: the newest pod of each node, as it was last seen.
        said: what processes said themselves.
        lost: nodes whose pods went away before they had ended, in that order.
        memory_gib: what a node may use.
    """
    failures = sorted(said, key=lambda each: each.at)
    causes = (each for each in failures if each.record.cause not in _CONSEQUENCES)
    first = next(causes, None)
    if first is not None:
        return _of_rank(first, pods)
    talked = {each.node for each in failures}
    silent = {node: pod for node, pod in sorted(pods.items()) if node not in talked}
    found = next(chain(_taken(pods), _of_silent(silent, pods, memory_gib)), None)
    if found is not None:
        return found
    for node in lost:
        return _taken_away(node, pods, "its pod is gone")
    if failures:
        return _taken_away(failures[0].node, pods, failures[0].record.message)
    text = job.failure or "it ended without an output and without a reason"
    fix = "See `kubectl describe trainjob`, then resume the run."
    return Verdict(FailureRecord("raised", f"TrainJob {job.name}: {text}", fix, 1), None)


def _taken(pods: Mapping[int, PodView]) -> Iterator[Verdict]:
    """Nodes that the cluster says it took away."""
    for node, pod in sorted(pods.items()):
        if pod.disruption:
            yield _taken_away(node, pods, pod.disruption)


def _of_silent(
    silent: Mapping[int, PodView], pods: Mapping[int, PodView], memory_gib: float
) -> Iterator[Verdict]:
    """Nodes that ended without a word: a signal let them say nothing, or they never began."""
    for node, pod in silent.items():
        found = failure_of_pod(pod, memory_gib=memory_gib)
        if found is None:
            continue
        if found.cause is FailureCause.KILLED and found.exit_code > _SIGNALLED:
            yield _taken_away(node, pods, found.message)
        else:
            message = f"{_name(node, pods)}: {found.message}"
            cause = FailureCause.RAISED if found.cause is FailureCause.KILLED else found.cause
            yield Verdict(FailureRecord(cause.value, message, found.fix, found.exit_code), node)


def _of_rank(said: RankFailure, pods: Mapping[int, PodView]) -> Verdict:
    record = said.record
    message = f"rank {said.rank} on {_name(said.node, pods)}: {record.message}"
    return Verdict(FailureRecord(record.cause, message, record.fix, record.exit_code), said.node)


def _taken_away(node: int, pods: Mapping[int, PodView], why: str) -> Verdict:
    message = f"{_name(node, pods)} was lost: {why}"
    return Verdict(FailureRecord("temporary", message, _AGAIN, EXIT_TEMPORARY), node)


def _name(node: int, pods: Mapping[int, PodView]) -> str:
    pod = pods.get(node)
    where = "" if pod is None else f" (pod {pod.name}{f' on {pod.node}' if pod.node else ''})"
    return f"node {node}{where}"
