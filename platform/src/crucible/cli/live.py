"""Following a run: a live table on a terminal, a line per change elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from crucible.cli.output import console, duration, print_json
from crucible.engines.state import FailureCause, RunState, RunStatus, StepState, StepStatus

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from crucible.engines.base import Engine

LINE_CADENCE_SECONDS = 10.0
"""Without a terminal a running step reports at most this often."""

_STYLES = {
    StepStatus.PENDING: ("·", "dim"),
    StepStatus.RUNNING: ("▸", "cyan"),
    StepStatus.RETRYING: ("↻", "yellow"),
    StepStatus.SUCCEEDED: ("✓", "green"),
    StepStatus.CACHED: ("≡", "green"),
    StepStatus.SKIPPED: ("-", "dim"),
    StepStatus.FAILED: ("✗", "red"),
    StepStatus.CANCELLED: ("✗", "yellow"),
}


def follow(engine: Engine, run_id: str, *, as_json: bool, cancel_on_interrupt: bool) -> None:
    """Show ``run_id`` until it ends, then exit with its code.

    Raises:
        typer.Exit: 0 succeeded, 1 failed or cancelled, 75 a temporary fault, 130 ctrl-C.
    """
    try:
        state = _show(engine.watch(run_id), run_id, quiet=as_json)
    except KeyboardInterrupt:
        if not cancel_on_interrupt:
            typer.echo(f"\n{run_id} goes on; platformctl watch {run_id} shows it again.", err=True)
            raise typer.Exit(130) from None
        typer.echo(f"\nending {run_id} ...", err=True)
        engine.cancel(run_id)
        typer.echo(f"ended; platformctl resume {run_id} continues it.", err=True)
        raise typer.Exit(130) from None
    if as_json:
        print_json(dataclasses.asdict(state))
    else:
        _print_end(state)
    raise typer.Exit(exit_code(state))


def exit_code(state: RunState) -> int:
    """0 succeeded, 75 if only temporary faults stand in the way, else 1."""
    if state.status is RunStatus.SUCCEEDED:
        return 0
    causes = {step.failure.cause for step in state.failed_steps if step.failure}
    return 75 if causes == {FailureCause.TEMPORARY} else 1


def print_state(state: RunState) -> None:
    """The run and its steps, once."""
    console().print(_table(state))
    _print_end(state)


def _show(states: Iterator[RunState], run_id: str, *, quiet: bool) -> RunState:
    if quiet:
        *_, last = states
        return last
    out = console()
    if not out.is_terminal:
        return _show_lines(states)
    from rich.live import Live

    with Live(console=out, refresh_per_second=8, transient=False) as live:
        for state in states:
            live.update(_table(state))
    return state


def _show_lines(states: Iterator[RunState]) -> RunState:
    shown: dict[str, StepStatus] = {}
    spoken_at: dict[str, float] = {}
    for state in states:
        for step in state.steps.values():
            now = time.monotonic()
            changed = shown.get(step.step_id, StepStatus.PENDING) is not step.status
            due = now - spoken_at.get(step.step_id, 0.0) > LINE_CADENCE_SECONDS
            if changed or (step.status is StepStatus.RUNNING and step.progress and due):
                typer.echo(f"{step.step_id}: {_line(step)}")
                shown[step.step_id], spoken_at[step.step_id] = step.status, now
    return state


def _line(step: StepState) -> str:
    parts = [str(step.status)]
    if step.status.is_final and step.started_at:
        parts.append(duration(step.started_at, step.ended_at))
    if step.status is StepStatus.RUNNING and step.progress:
        total = f"/{step.progress.total:g}" if step.progress.total else ""
        parts.append(f"{step.progress.done:g}{total} {step.progress.unit}")
    parts.extend(filter(None, (_metrics(step), step.reason)))
    if step.failure:
        parts.append(f"{step.failure.cause}: {step.failure.message}")
    return ", ".join(parts)


def _table(state: RunState) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = f"{state.run_id}  {state.status}  {duration(state.started_at, state.ended_at)}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for header in ("", "STEP", "STATE", "PROGRESS", "TIME", "LAST"):
        table.add_column(header, no_wrap=header in ("", "STEP", "STATE"))
    for step in state.steps.values():
        mark, style = _STYLES[step.status]
        last = step.failure.message if step.failure else _metrics(step) or step.reason
        table.add_row(
            Text(mark, style),
            Text(step.step_id),
            Text(str(step.status), style),
            _bar(step),
            duration(step.started_at, step.ended_at),
            Text(last, overflow="ellipsis"),
        )
    return table


def _bar(step: StepState) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    progress = step.progress
    if progress is None or step.status is not StepStatus.RUNNING:
        return Text("")
    if progress.total is None:
        return Text(f"{progress.done:g} {progress.unit}")
    return ProgressBar(total=progress.total, completed=progress.done, width=24)


def _metrics(step: StepState) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in list(step.last_metrics.items())[:3])


def _print_end(state: RunState) -> None:
    if state.status is RunStatus.SUCCEEDED and state.release:
        with contextlib.suppress(KeyError):  # a release without a decision has nothing to add
            typer.echo(f"release: {state.release['summary']}")
    if state.message:
        typer.echo(state.message)
    if state.status is RunStatus.FAILED:
        typer.echo(
            f"platformctl why {state.run_id} explains; resume continues from the last good step"
        )
    if state.report:
        typer.echo(f"report: {state.report}")
