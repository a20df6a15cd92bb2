"""One attempt of one step in a pod: its process, what it left, and the journal's word on it."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from crucible.artifacts.files import write_atomically
from crucible.errors import CrucibleError, UserError
from crucible.sdk.executor import (
    CACHED_FROM_KEY,
    DIGEST_KEY,
    RuntimeArtifact,
    StepParameters,
    build_executor_input,
    read_executor_output,
)
from crucible.sdk.failure import (
    FILE_NAME,
    FailureRecord,
    failure_of,
    failure_of_exit,
    read_failure,
)
from crucible.sdk.fingerprint import CODE_PART
from crucible.sdk.pod.child import Ended, run_child
from crucible.sdk.pod.pod import Pod
from crucible.sdk.pod.reporter import reporting
from crucible.sdk.pod.request import PodStep
from crucible.sdk.pod.sources import known_outputs, outputs_needed, read_metrics, write_references
from crucible.sdk.process import Terminated
from crucible.sdk.store_checkpoint import STORE_CHECKPOINTS

logger = logging.getLogger(__name__)

_STEP_MODULE = "crucible.step"
_LAUNCHER_MODULE = "crucible.engines.kfp.launcher"
"""Named and not imported: engines stand above the contract."""
_LOG_TAIL_LINES = 20
_LOG_TAIL_BYTES = 16_384


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    written: Mapping[str, RuntimeArtifact] = field(default_factory=dict)
    """By output name, the uri being that of the reference file here."""
    failure: FailureRecord | None = None

    @property
    def digests(self) -> dict[str, str]:
        """Manifest digest by output name."""
        return {name: str(ref.metadata[DIGEST_KEY]) for name, ref in self.written.items()}

    @property
    def cached_from(self) -> str:
        """The run that did the work, if this one found it in the cache."""
        return next(
            (
                str(ref.metadata[CACHED_FROM_KEY])
                for ref in self.written.values()
                if CACHED_FROM_KEY in ref.metadata
            ),
            "",
        )


def run_attempt(
    pod: Pod,
    step: PodStep,
    attempt: int,
    own_outputs: Mapping[str, Mapping[str, str]],
    *,
    leaving: Callable[[Terminated], None],
) -> Outcome:
    """Run ``step`` once. Its start is in the journal before, its end when `record_end` was called.

    Args:
        pod: the pod.
        step: what to run.
        attempt: its number, never used before.
        own_outputs: digests by output name of the steps that this pod has run, by step id.
        leaving: called when the pod is asked to end, before the process has ended.

    Raises:
        Terminated: the pod was asked to end; the process has ended.
        StoreUnavailable: the store does not answer.
    """
    folder = pod.attempt_dir(step.step_id, attempt)
    folder.mkdir(parents=True)
    journal = pod.journal.attempt(step.step_id, attempt)
    pod.record(journal.start(kfp_run_id=pod.request.kfp_run_id, pod=os.environ.get("HOSTNAME", "")))
    try:
        _prepare(pod, step, attempt, own_outputs, folder)
    except (CrucibleError, OSError) as error:
        failure = failure_of(error)
        logger.error("%s: %s %s", failure.cause, failure.message, failure.fix)
        return Outcome(failure=failure)
    with reporting(journal, log=folder / "log.txt", events=folder / "events.jsonl"):
        module, argv = _program(pod, step, folder, journal.prefix)
        ended = run_child(
            module,
            argv,
            environ=_environ(folder),
            log_path=folder / "log.txt",
            timeout_seconds=_timeout_seconds(pod, step),
            leaving=leaving,
        )
    return _judge(step, folder, ended)


def record_end(
    pod: Pod, step: PodStep, attempt: int, outcome: Outcome, *, retry_in_seconds: float | None
) -> None:
    """Say in the journal how an attempt ended, and whether another follows.

    Raises:
        StoreUnavailable: the store does not answer: then nobody may be told that the step is done.
    """
    journal = pod.journal.attempt(step.step_id, attempt)
    failure = outcome.failure
    told = None
    if failure is not None:
        log = pod.attempt_dir(step.step_id, attempt) / "log.txt"
        told = {**asdict(failure), "log_tail": tail(log)}
    if retry_in_seconds is not None:
        event = journal.end("step.retrying", failure=told, delay_seconds=retry_in_seconds)
    elif failure is not None:
        event = journal.end(status="failed", failure=told, outputs={})
    else:
        cached_from = outcome.cached_from
        event = journal.end(
            status="cached" if cached_from else "succeeded",
            outputs=outcome.digests,
            cached_from=cached_from,
            reason=f"run {cached_from}" if cached_from else "",
        )
    pod.record(event)


def terminated(error: Terminated) -> Outcome:
    """The outcome of an attempt that ended because the pod was asked to end."""
    return Outcome(failure=failure_of(error))


def tail(log: Path) -> list[str]:
    """The last lines of a log."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            text = stream.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-_LOG_TAIL_LINES:]


def _prepare(
    pod: Pod,
    step: PodStep,
    attempt: int,
    own_outputs: Mapping[str, Mapping[str, str]],
    folder: Path,
) -> None:
    """Write the executor input that the step's process reads."""
    known = known_outputs(outputs_needed(step), own_outputs, pod.journal)
    request = build_executor_input(
        step=StepParameters(
            run_id=pod.run_id,
            step_id=step.step_id,
            fingerprint=step.fingerprint,
            attempt=attempt,
            seed=step.seed,
            cache=step.cache,
            cpus=step.cpus,
            optional_outputs=step.optional_outputs,
            component=step.component,
            metric_refs=read_metrics(step.metric_refs, known, pod.store),
            fingerprint_parts={CODE_PART: step.code} if step.code else {},
        ),
        config=step.config,
        inputs=write_references(step, known, pod.store, folder / "inputs"),
        outputs=step.outputs,
        attempt_dir=folder,
    )
    text = json.dumps(request.to_json(), indent=1)
    write_atomically(folder / "executor_input.json", text.encode(), durable=False)


def _program(pod: Pod, step: PodStep, folder: Path, prefix: str) -> tuple[str, tuple[str, ...]]:
    """The module that does the step, and its arguments."""
    argv = (step.component, "--executor-input", f"@{folder / 'executor_input.json'}")
    if pod.request.trainjob is None:
        return _STEP_MODULE, argv
    wanted = folder / "trainjob.json"
    write_atomically(wanted, json.dumps(pod.request.trainjob).encode(), durable=False)
    return _LAUNCHER_MODULE, (*argv, "--trainjob", str(wanted), "--attempt-prefix", prefix)


def _timeout_seconds(pod: Pod, step: PodStep) -> float | None:
    """On several nodes it is the TrainJob's: waiting for quota is not work."""
    if step.timeout_minutes is None or pod.request.trainjob is not None:
        return None
    return step.timeout_minutes * 60


def _environ(folder: Path) -> dict[str, str]:
    retries = [name for name in os.environ if name.startswith("CRUCIBLE_RETRY_")]
    kept = {name: value for name, value in os.environ.items() if name not in retries}
    return {
        "PYTHONHASHSEED": "0",  # a set of strings has one order in every run and attempt
        **kept,
        "CRUCIBLE_EVENTS": str(folder / "events.jsonl"),
        "CRUCIBLE_CHECKPOINTS": STORE_CHECKPOINTS,
        "CRUCIBLE_SCRATCH": str(folder / "scratch"),
    }


def _judge(step: PodStep, folder: Path, ended: Ended) -> Outcome:
    if ended.exit_code == 0:
        try:
            return Outcome(read_executor_output(folder / "executor_output.json"))
        except (OSError, UserError) as error:
            message = f"the process ended well but left no usable executor output: {error}"
            fix = "Look in its log for what ended it early, then resume the run."
            return Outcome(failure=FailureRecord("no-output", message, fix, 1))
    if ended.timed_out:
        message = f"ended after its timeout of {step.timeout_minutes:g} minutes"
        fix = "Raise the step's timeout_minutes, or find in its log where it hangs; then resume."
        return Outcome(failure=FailureRecord("timeout", message, fix, ended.exit_code))
    if ended.exit_code == -signal.SIGKILL and ended.oom_kills:
        message = f"killed for lack of memory at {ended.peak_memory_gib:.1f} GiB"
        fix = "Raise the step's resources.memory_gib, or make its batches smaller; then resume."
        return Outcome(failure=FailureRecord("out-of-memory", message, fix, 137))
    return Outcome(failure=failure_of_exit(ended.exit_code, read_failure(folder / FILE_NAME)))


def next_attempt(pod: Pod, step: PodStep) -> int:
    """The number of the attempt that comes next, counting those of pods that were lost."""
    return max(pod.journal.attempts(step.step_id), default=0) + 1


def hopeless_before(pod: Pod, step: PodStep, attempt: int) -> FailureRecord | None:
    """Why trying again is no use: the attempt before failed for a reason that is still there.

    KFP starts a failed pod again whatever it failed of. Only a lost pod is worth it: what a step
    can mend by trying again it has tried itself.
    """
    if not int(os.environ.get("KFP_RETRY_INDEX") or 0) or attempt < 2:
        return None
    ended = pod.journal.attempt(step.step_id, attempt - 1).ended()
    failure = (ended or {}).get("failure")
    if not failure or failure["cause"] in ("killed", "temporary"):
        return None
    known = {name: failure[name] for name in ("cause", "message", "fix", "exit_code")}
    return FailureRecord(**known)
