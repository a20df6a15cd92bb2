"""Why a pod does not start or has ended badly, in plain words and with what to do.

Kubernetes says it in the pod's status, Argo in the node of a pod that could not even be made; KFP
says nothing. Both texts are matched by their fixed parts and otherwise passed on as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from crucible.cluster.pods import PodView
from crucible.engines.state import Failure, FailureCause

_Rule = tuple[str, FailureCause, str]

_RESUME = "then resume the run: the step goes on from its last checkpoint."
_OBSTACLES: tuple[_Rule, ...] = (
    (
        r"SchedulingGated",
        FailureCause.QUOTA,
        "It waits in Kueue's queue for quota. See `kubectl get workloads`, or take another queue.",
    ),
    (
        r"no node carries",
        FailureCause.UNSCHEDULABLE,
        "Label nodes of the pool, set the step's resources.pool, or the context's pools.",
    ),
    (
        r"Insufficient (?P<what>[\w./-]+)",
        FailureCause.UNSCHEDULABLE,
        "Wait until {what} is free, add nodes to the pool, or ask for less in resources.",
    ),
    (
        r"untolerated taint",
        FailureCause.UNSCHEDULABLE,
        "Give the pool in the context the toleration of this taint, or take the taint away.",
    ),
    (
        r"node affinity/selector",
        FailureCause.UNSCHEDULABLE,
        "No node carries the pool's label. Label nodes, set the step's resources.pool, or the "
        "context's pools.",
    ),
    (
        r"Unschedulable",
        FailureCause.UNSCHEDULABLE,
        "See the pool's nodes: `kubectl get nodes -L crucible.dev/pool`.",
    ),
    (
        r"ErrImageNeverPull",
        FailureCause.IMAGE,
        "The node does not have the image and may not pull it. Load it, or set the context's "
        "image_pull_policy.",
    ),
    (
        r"InvalidImageName",
        FailureCause.IMAGE,
        "Correct the name under images in the context, or the step's image.",
    ),
    (
        r"ErrImagePull|ImagePullBackOff|ImageInspectError|RegistryUnavailable",
        FailureCause.IMAGE,
        "Check the name and digest under images in the context, that it was pushed, and "
        "image_pull_secrets.",
    ),
    (
        r"secret \"(?P<what>[^\"]+)\" not found|configmap \"(?P<that>[^\"]+)\" not found",
        FailureCause.CONFIGURATION,
        "Create it in the run namespace, or correct the name in the context.",
    ),
    (
        r"couldn't find key",
        FailureCause.CONFIGURATION,
        "Add the key to the Secret or ConfigMap, or correct the name in the context.",
    ),
    (
        r"CreateContainerConfigError|CreateContainerError",
        FailureCause.CONFIGURATION,
        "See the pod's events: `kubectl describe pod`.",
    ),
    (
        r"FailedMount|FailedAttachVolume",
        FailureCause.CONFIGURATION,
        "A volume cannot be mounted; see the pod's events.",
    ),
    (
        r"RunContainerError|StartError|exec format error|no such file or directory: unknown",
        FailureCause.IMAGE,
        "The image has not what the step starts. Build it with `platformctl images build`.",
    ),
)
_UNMADE: tuple[_Rule, ...] = (
    (
        r"exceeded quota",
        FailureCause.QUOTA,
        "Wait for other pods of the namespace to end, ask for less, or have the quota raised.",
    ),
    (
        r"violates PodSecurity",
        FailureCause.REFUSED,
        "The namespace demands more of pods than KFP's fulfil; see manifests/README.md.",
    ),
    (
        r"service account|serviceaccount",
        FailureCause.CONFIGURATION,
        "Create the service account that the context names: kubectl apply -k manifests/...",
    ),
    (
        r"maximum .* usage per Container|must be less than or equal",
        FailureCause.QUOTA,
        "The namespace's LimitRange is lower than what the step asks for. Ask for less.",
    ),
    (
        r"admission webhook|denied the request|is forbidden",
        FailureCause.REFUSED,
        "The cluster's admission refused the pod. Change the step or the policy that it names.",
    ),
)


@dataclass(frozen=True)
class _Match:
    cause: FailureCause
    fix: str


def obstacle_of(pod: PodView, *, placement: str = "") -> Failure | None:
    """What keeps ``pod`` from starting, or None.

    Args:
        pod: the pod.
        placement: what is known of its pool, said before the scheduler's own words.
    """
    said = pod.obstacle
    if not said:
        return None
    message = f"{placement}. {said}" if placement else said
    match = _match(message, _OBSTACLES) or _Match(
        FailureCause.CONFIGURATION, "See the pod's events: `kubectl describe pod`."
    )
    return Failure(match.cause, message, match.fix, 0)


def failure_of_pod(pod: PodView, *, memory_gib: float | None = None) -> Failure | None:
    """Why ``pod`` ended badly without its step having said so; None if it did not.

    Args:
        pod: the pod.
        memory_gib: what the step asks for, to be named where that was too little.
    """
    said = pod.failure
    if not said:
        return None
    code = _exit_code(pod)
    if "OOMKilled" in said:
        asked = f" of {memory_gib:g} GiB" if memory_gib is not None else ""
        message = f"killed for lack of memory: it needed more than its limit{asked}"
        fix = f"Raise the step's resources.memory_gib, or make its batches smaller; {_RESUME}"
        return Failure(FailureCause.OUT_OF_MEMORY, message, fix, code)
    if pod.disruption:
        fix = f"The cluster took the pod away. Wait until it has room, {_RESUME}"
        return Failure(FailureCause.EVICTED, pod.disruption, fix, code)
    if "DeadlineExceeded" in said:
        fix = "Raise the step's timeout_minutes, or find in its log where it hangs."
        return Failure(FailureCause.TIMEOUT, said, fix, code)
    match = _match(said, _OBSTACLES)
    if match is not None:
        return Failure(match.cause, said, match.fix, code)
    fix = "Nobody but the node knows more: see its log and the pod's events, then resume the run."
    return Failure(FailureCause.KILLED, said, fix, code)


def failure_of_unmade(message: str) -> Failure | None:
    """Why a pod was never made, from the message of its node in the Workflow."""
    match = _match(message, _UNMADE)
    return None if match is None else Failure(match.cause, message, match.fix, 1)


def failure_of_driver(message: str, log_tail: tuple[str, ...]) -> Failure:
    """KFP's own pod before the step failed."""
    fix = (
        "The driver is KFP's. Its log names what it could not do; often it cannot reach the "
        "metadata or the API service: `platformctl doctor` looks."
    )
    return Failure(FailureCause.DRIVER, f"KFP's driver failed: {message}", fix, 1, log_tail)


def _match(text: str, rules: tuple[_Rule, ...]) -> _Match | None:
    for pattern, cause, fix in rules:
        found = re.search(pattern, text)
        if found:
            names = {name: value for name, value in found.groupdict().items() if value}
            return _Match(cause, fix.format(**names) if "{" in fix else fix)
    return None


def _exit_code(pod: PodView) -> int:
    codes = [each.exit_code for each in pod.containers if each.has_failed]
    return next((code for code in codes if code), 1)
