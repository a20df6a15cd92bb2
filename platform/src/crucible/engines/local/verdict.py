"""How an attempt of a step ended: from exit code, signal and what it left behind to an outcome."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from crucible.engines.local.logfile import tail
from crucible.engines.local.machine import GIB
from crucible.engines.local.protocol import Exited
from crucible.engines.local.run_dir import AttemptDir
from crucible.engines.state import Failure, FailureCause
from crucible.errors import UserError
from crucible.plan.model import PlanStep
from crucible.sdk.executor import read_executor_output
from crucible.sdk.failure import failure_of, failure_of_exit, read_failure

_NEAR_LIMIT_FRACTION = 0.9
"""Where the kernel does not count its kills, a SIGKILL above this share of what the step declares
is taken for one of them."""
_LOG_TAIL_LINES = 20
_DIGEST_KEY, _CACHED_KEY = "crucible_digest", "crucible_cached_from"


class StopReason(StrEnum):
    """Why the engine itself ended a process."""

    TIMEOUT = "timeout"
    MEMORY = "memory"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Verdict:
    """One attempt's end: outputs, or a failure, or neither if the engine was told to end it."""

    outputs: Mapping[str, str] = field(default_factory=dict)
    """Manifest digest by output name."""
    cached_from: str = ""
    """The run that did the work, if this one only found it in the cache."""
    failure: Failure | None = None
    cancelled: bool = False

    @property
    def is_temporary(self) -> bool:
        return self.failure is not None and self.failure.cause is FailureCause.TEMPORARY


def judge(
    step: PlanStep, attempt_dir: AttemptDir, ended: Exited, stopped: StopReason | None
) -> Verdict:
    """What the end of ``step``'s process means.

    A step that the engine told to end but that has finished all the same has finished.
    """
    if ended.exit_code == 0:
        return _judge_outputs(step, attempt_dir)
    if stopped is StopReason.CANCELLED:
        return Verdict(cancelled=True)
    cause, message, fix = _explain(step, attempt_dir, ended, stopped)
    log_tail = tail(attempt_dir.log, _LOG_TAIL_LINES)
    return Verdict(failure=Failure(cause, message, fix, ended.exit_code, log_tail))


def failure_of_engine(error: Exception) -> Failure:
    """The failure of a step that the engine could not start because of ``error``."""
    found = failure_of(error)
    return Failure(FailureCause(found.cause), found.message, found.fix, found.exit_code)


def _judge_outputs(step: PlanStep, attempt_dir: AttemptDir) -> Verdict:
    try:
        written = read_executor_output(attempt_dir.executor_output)
        return Verdict(
            outputs={name: str(ref.metadata[_DIGEST_KEY]) for name, ref in written.items()},
            cached_from=next(
                (
                    str(ref.metadata[_CACHED_KEY])
                    for ref in written.values()
                    if _CACHED_KEY in ref.metadata
                ),
                "",
            ),
        )
    except (OSError, KeyError, UserError) as error:
        message = f"the process ended well but left no usable executor output: {error}"
        fix = f"Look in its log for what ended {step.component} early, then resume the run."
        log_tail = tail(attempt_dir.log, _LOG_TAIL_LINES)
        return Verdict(failure=Failure(FailureCause.NO_OUTPUT, message, fix, 0, log_tail))


def _explain(
    step: PlanStep, attempt_dir: AttemptDir, ended: Exited, stopped: StopReason | None
) -> tuple[FailureCause, str, str]:
    peak_gib = ended.max_rss_bytes / GIB
    declared = step.resources.memory_gib
    memory_fix = (
        f"Raise steps.{step.name}.resources.memory_gib (now {declared:g}) so that less runs beside "
        "it, or make its batches smaller; then resume the run."
    )
    if stopped is StopReason.MEMORY:
        message = (
            f"ended by the engine at {peak_gib:.1f} GiB: the running steps needed more memory than "
            f"there is, and this one was furthest above what it declares ({declared:g} GiB)"
        )
        return FailureCause.OUT_OF_MEMORY, message, memory_fix
    if stopped is StopReason.TIMEOUT:
        message = f"ended by the engine after its timeout of {step.timeout_minutes:g} minutes"
        fix = f"Raise steps.{step.name}.timeout_minutes, or find in the log where it hangs."
        return FailureCause.TIMEOUT, message, fix
    if ended.error:
        message = f"the process could not be started: {ended.error}"
        return FailureCause.TEMPORARY, message, "Free memory or processes, then resume the run."
    if ended.exit_code == -signal.SIGKILL:
        unknown = ended.oom_kills is None and peak_gib >= _NEAR_LIMIT_FRACTION * declared
        if ended.oom_kills or unknown:
            message = f"killed for lack of memory at {peak_gib:.1f} GiB, {declared:g} declared"
            return FailureCause.OUT_OF_MEMORY, message, memory_fix
        message = "killed by SIGKILL from outside, not for memory"
        return FailureCause.KILLED, message, "Resume the run when whoever killed it is done."
    found = failure_of_exit(ended.exit_code, read_failure(attempt_dir.failure))
    return FailureCause(found.cause), found.message, found.fix
