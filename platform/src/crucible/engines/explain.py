"""Why a run is where it is, in plain words: the step, the cause, its last lines, what to do."""

from __future__ import annotations

from dataclasses import dataclass

from crucible.engines.state import RunState, RunStatus, StepState, StepStatus


@dataclass(frozen=True)
class StepExplanation:
    """One step that stands in the way."""

    step_id: str
    cause: str
    message: str
    fix: str
    exit_code: int
    log_tail: tuple[str, ...]

    def __str__(self) -> str:
        code = f" (exit code {self.exit_code})" if self.exit_code else ""
        lines = [
            f"step    {self.step_id}",
            f"cause   {self.cause}{code}",
            f"error   {self.message}",
        ]
        if self.log_tail:
            lines += ["last lines of its log:", *(f"  | {line}" for line in self.log_tail)]
        if self.fix:
            lines.append(f"fix     {self.fix}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Explanation:
    """What `platformctl why` prints."""

    run_id: str
    status: str
    summary: str
    steps: tuple[StepExplanation, ...]
    next_command: str = ""

    def __str__(self) -> str:
        parts = [f"{self.run_id} {self.status}: {self.summary}", *map(str, self.steps)]
        if self.next_command:
            parts.append(f"next    {self.next_command}")
        return "\n\n".join(parts)


def explain(state: RunState) -> Explanation:
    """The steps of ``state`` that failed or wait, each with its cause."""
    held = [step for step in state.steps.values() if step.obstacle and not step.status.is_final]
    failed = tuple(_step(step) for step in [*state.failed_steps, *held])
    next_command = ""
    if state.status.is_final and state.status is not RunStatus.SUCCEEDED:
        next_command = f"platformctl resume {state.run_id}"
    return Explanation(
        run_id=state.run_id,
        status=str(state.status),
        summary=_summary(state),
        steps=failed,
        next_command=next_command,
    )


def _summary(state: RunState) -> str:
    """What the engine said at the end, which need not be about a step, or what is known so far."""
    cause = state.message if state.message != str(state.status) else ""
    if not cause and state.failed_steps:
        cause = f"{', '.join(step.step_id for step in state.failed_steps)} failed"
    if cause:
        skipped = [s.step_id for s in state.steps.values() if s.status is StepStatus.SKIPPED]
        below = f"; skipped because of it: {', '.join(skipped)}" if state.failed_steps else ""
        return cause + (below if skipped else "")
    waiting = [
        f"{step.step_id} {step.status}{f' ({step.reason})' if step.reason else ''}"
        for step in state.steps.values()
        if not step.status.is_final
    ]
    return ", ".join(waiting) or "nothing failed"


def _step(step: StepState) -> StepExplanation:
    failure = step.failure or step.obstacle
    if failure is None:
        return StepExplanation(step.step_id, "unknown", step.reason, "", 1, ())
    return StepExplanation(
        step.step_id,
        str(failure.cause),
        failure.message,
        failure.fix,
        failure.exit_code,
        failure.log_tail,
    )
