"""Puts what the cluster knows of a run's pods to the steps that the journal cannot explain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from crucible.cluster.connection import Connection
from crucible.cluster.pods import PodView, list_pods
from crucible.cluster.workflows import RUN_LABEL, WorkflowNode, find_workflow
from crucible.engines.events import Event
from crucible.engines.kfp.kubernetes_config import STEP_LABEL
from crucible.engines.kfp.names import EXIT_TASK
from crucible.engines.kfp.reasons import (
    failure_of_driver,
    failure_of_pod,
    failure_of_unmade,
    obstacle_of,
)
from crucible.engines.kfp.runstate import LOST, NOT_STARTED
from crucible.engines.state import Failure, RunState, StepState, StepStatus
from crucible.errors import ClusterRefused, CrucibleError, ObjectNotFound
from crucible.plan.model import Plan
from crucible.sdk.component import Resources

_NODE_NAME = "workflows.argoproj.io/node-name"
"""Annotation by Argo: ``many-abc.root.run.train-driver``."""


@dataclass
class Diagnosis:
    """What is known of the pods of one run of KFP."""

    plan: Plan
    pods: Sequence[PodView]
    nodes: Sequence[WorkflowNode]
    """Of the run's Workflow: the word of a pod that was never made."""
    events: Sequence[Event]
    placement: Callable[[Resources], str] = lambda resources: ""
    """What the nodes of a step's pool have to say."""
    _known: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for event in self.events:
            if event["type"] == "step.started":
                self._known[event["step"]] = str(event.get("pod", ""))

    def apply(self, state: RunState) -> None:
        """Give steps that wait an obstacle, and steps that were lost a reason."""
        for step in state.steps.values():
            if step.status in (StepStatus.PENDING, StepStatus.RETRYING):
                self._wait_reason(step)
            elif step.status is StepStatus.RUNNING:
                self._loss(step)
            elif step.failure in (LOST, NOT_STARTED):
                self._end_reason(step)

    def _wait_reason(self, step: StepState) -> None:
        planned = self.plan.step(step.step_id)
        for pod in self._pods_of(step):
            placement = ""
            if pod.obstacle and not pod.node:
                placement = self.placement(planned.resources)
            obstacle = obstacle_of(pod, placement=placement)
            if obstacle is not None:
                step.obstacle, step.reason = obstacle, obstacle.message
                return
        for pod in self._drivers_of(step):
            obstacle = obstacle_of(pod)
            if obstacle is not None:
                step.obstacle, step.reason = obstacle, f"KFP's driver: {obstacle.message}"
                return
        unmade = self._unmade(step)
        if unmade is not None:
            step.obstacle, step.reason = unmade, unmade.message

    def _loss(self, step: StepState) -> None:
        """A step whose pod has failed and said nothing is waiting for KFP to try again."""
        pod = self._pod_that_ran(step)
        if pod is not None and pod.is_finished:
            memory_gib = self.plan.step(step.step_id).resources.memory_gib
            failure = failure_of_pod(pod, memory_gib=memory_gib)
            if failure is not None:
                step.status, step.reason = StepStatus.RETRYING, failure.message
                step.failure = failure

    def _end_reason(self, step: StepState) -> None:
        memory_gib = self.plan.step(step.step_id).resources.memory_gib
        ran = self._pod_that_ran(step)
        pods = [ran] if ran is not None else self._pods_of(step)
        for pod in reversed(pods):
            failure = failure_of_pod(pod, memory_gib=memory_gib) or obstacle_of(pod)
            if failure is not None:
                step.failure = failure
                return
        for pod in self._drivers_of(step):
            if pod.failure:
                step.failure = failure_of_driver(pod.failure, ())
                return
        step.failure = self._unmade(step) or step.failure

    def _unmade(self, step: StepState) -> Failure | None:
        """Why the step's pod was never made, if Argo says so."""
        name = f".{step.step_id.partition('[')[0]}"
        for node in self.nodes:
            if node.message and (node.path.endswith(name) or f"{name}." in node.path):
                failure = failure_of_unmade(node.message)
                if failure is not None:
                    return failure
        return None

    def _pods_of(self, step: StepState) -> list[PodView]:
        """Pods that run, or will run, ``step``; of a fan-out those of all its items."""
        on_exit = self.plan.on_exit
        name = step.step_id.partition("[")[0]
        if on_exit is not None and step.step_id == on_exit.id:
            name = EXIT_TASK
        found = [pod for pod in self.pods if pod.labels.get(STEP_LABEL) == name]
        return sorted(found, key=lambda pod: pod.created_at)

    def _pod_that_ran(self, step: StepState) -> PodView | None:
        """The pod of the step's newest attempt; a host name has at most 63 characters."""
        name = self._known.get(step.step_id)
        found = (pod for pod in self.pods if name and pod.name.startswith(name))
        return next(found, None)

    def _drivers_of(self, step: StepState) -> Iterable[PodView]:
        suffix = f".{step.step_id.partition('[')[0]}-driver"
        return (p for p in self.pods if p.annotations.get(_NODE_NAME, "").endswith(suffix))


@dataclass(frozen=True)
class Witnesses:
    """What the cluster knows of a run: its pods, and the nodes of its Workflow."""

    pods: Sequence[PodView]
    nodes: Sequence[WorkflowNode]


def witnesses_of(connection: Connection, namespace: str, kfp_run_id: str) -> Witnesses:
    """Two requests; errors as `Connection.call`.

    A user who may not read Workflows still learns what pods tell.
    """
    pods = list_pods(connection, namespace, f"{RUN_LABEL}={kfp_run_id}")
    try:
        workflow = find_workflow(connection, namespace, kfp_run_id)
    except (ClusterRefused, ObjectNotFound):
        workflow = None
    return Witnesses(pods, () if workflow is None else workflow.nodes)


def needs_witnesses(state: RunState) -> bool:
    """True if the journal leaves something of the run open that its pods may tell."""
    steps = state.steps.values()
    if state.status.is_final:
        return any(step.failure in (LOST, NOT_STARTED) for step in steps)
    return any(not step.status.is_final for step in steps)


def diagnose(
    state: RunState,
    read: Callable[[], Witnesses],
    plan: Plan,
    events: Sequence[Event],
    placement: Callable[[Resources], str],
) -> None:
    """Add to ``state`` what its pods tell; where they cannot be read a warning says so."""
    if not needs_witnesses(state):
        return
    try:
        found = read()
    except CrucibleError as error:
        state.warnings.append(f"what the run's pods are doing is not known: {error}")
        return
    Diagnosis(plan, found.pods, found.nodes, events, placement).apply(state)
