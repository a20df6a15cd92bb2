"""The pod's main loop: its steps in order, each tried as often as its faults are temporary."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crucible.artifacts.store import Store, open_store
from crucible.errors import EXIT_DONE, CrucibleError, TemporaryError
from crucible.sdk.failure import FailureRecord, failure_of
from crucible.sdk.pod.attempt import (
    Outcome,
    hopeless_before,
    next_attempt,
    record_end,
    run_attempt,
    terminated,
)
from crucible.sdk.pod.delivery import Delivery
from crucible.sdk.pod.pod import Pod, resolve_run_id
from crucible.sdk.pod.relay import Relay
from crucible.sdk.pod.request import PodRequest, PodStep
from crucible.sdk.process import Terminated, ignore_signals, unwinding_on_signals
from crucible.sdk.retry import Backoff
from crucible.settings import Settings

logger = logging.getLogger(__name__)


def run_pod(request: PodRequest) -> int:
    """Run all steps of the pod and write KFP's executor output; returns the exit code.

    The outputs of what ended well are in the journal even if a later step of a chain fails.
    """
    parent = os.environ.get("CRUCIBLE_SCRATCH")
    with (
        tempfile.TemporaryDirectory(
            prefix="pod-", dir=parent, ignore_cleanup_errors=True
        ) as folder,
        unwinding_on_signals(),
    ):
        try:
            return _run(request, Path(folder))
        except (CrucibleError, OSError, Terminated) as error:
            ignore_signals()
            failure = failure_of(error)
            logger.error("%s: %s %s", failure.cause, failure.message, failure.fix)
            return failure.exit_code


def _run(request: PodRequest, folder: Path) -> int:
    backoff = Backoff.from_environ(os.environ)
    store, run_id = _connect(request, backoff)
    pod = Pod(request, store, run_id, folder)
    delivery = Delivery(pod)
    own_outputs: dict[str, Mapping[str, str]] = {}
    with Relay(pod) as relay:
        for step in request.steps:
            outcome = _run_step(pod, step, own_outputs, backoff, relay)
            if outcome.failure is not None:
                return _exit_code(outcome.failure)
            own_outputs[step.step_id] = outcome.digests
            delivery.take(step, outcome)
    delivery.write()
    return EXIT_DONE


def _connect(request: PodRequest, backoff: Backoff) -> tuple[Store, str]:
    """The store and the run's id, however long the store is away within the retries."""
    for tries in itertools.count(1):
        try:
            store = open_store(os.environ.get("CRUCIBLE_STORE") or Settings.load().store_uri)
            return store, resolve_run_id(request, store)
        except TemporaryError as error:
            if tries > backoff.limit:
                raise
            _wait(backoff, tries, error)
    raise AssertionError("count() never ends")


def _run_step(
    pod: Pod,
    step: PodStep,
    own_outputs: Mapping[str, Mapping[str, str]],
    backoff: Backoff,
    relay: Relay,
) -> Outcome:
    for tries in itertools.count(1):
        attempt = next_attempt(pod, step)
        known = hopeless_before(pod, step, attempt)
        if known is not None:
            logger.error("not tried again: %s: %s %s", known.cause, known.message, known.fix)
            return Outcome(failure=known)
        relay.start()
        leave = _Leaving(pod, step, attempt)
        try:
            outcome = run_attempt(pod, step, attempt, own_outputs, leaving=leave.record)
            outcome = _with_parameters(pod, step, outcome)
        except Terminated as error:
            ignore_signals()
            leave.record(error)
            return terminated(error)
        failure = outcome.failure
        again = failure is not None and failure.cause == "temporary" and tries <= backoff.limit
        delay_seconds = backoff.delay_seconds(tries, random.Random()) if again else None
        record_end(pod, step, attempt, outcome, retry_in_seconds=delay_seconds)
        if delay_seconds is None or failure is None:
            return outcome
        logger.warning("try %d failed: %s. Next in %.1f s.", tries, failure.message, delay_seconds)
        time.sleep(delay_seconds)
    raise AssertionError("count() never ends")


@dataclass
class _Leaving:
    """Says once in the journal that an attempt ends because the pod was asked to."""

    pod: Pod
    step: PodStep
    attempt: int
    _is_recorded: bool = False

    def record(self, error: Terminated) -> None:
        if self._is_recorded:
            return
        self._is_recorded = True
        with contextlib.suppress(TemporaryError):  # the pod ends either way
            record_end(self.pod, self.step, self.attempt, terminated(error), retry_in_seconds=None)


def _with_parameters(pod: Pod, step: PodStep, outcome: Outcome) -> Outcome:
    """``outcome``, or the failure of a step that did not measure what conditions compare."""
    if outcome.failure is not None:
        return outcome
    try:
        Delivery.parameters_of(pod, step, outcome)
    except CrucibleError as error:
        return Outcome(failure=failure_of(error))
    return outcome


def _wait(backoff: Backoff, tries: int, error: Exception) -> None:
    delay_seconds = backoff.delay_seconds(tries, random.Random())
    logger.warning("try %d failed: %s Next in %.1f s.", tries, error, delay_seconds)
    time.sleep(delay_seconds)


def _exit_code(failure: FailureRecord) -> int:
    """A signal's number as shells report it."""
    return failure.exit_code if failure.exit_code > 0 else 128 - failure.exit_code or 1
