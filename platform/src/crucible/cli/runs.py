"""Verbs on a run: runs, status, watch, logs, why, cancel, retry, resume."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from crucible.cli.output import Json, clock, duration, print_json, print_table

if TYPE_CHECKING:
    from crucible.engines.base import Engine
    from crucible.engines.state import RunState

Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Run id, a unique prefix of it, or 'last'.")
]


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    for command in (runs, status, watch, logs, why, cancel, retry, resume):
        app.command()(command)


def runs(
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="How many, newest first.")
    ] = 20,
    json: Json = False,
) -> None:
    """List the runs, newest first."""
    states = _engine().states(limit)
    if json:
        print_json([_summary(state) for state in states])
        return
    rows = (
        (
            state.run_id,
            str(state.status),
            clock(state.started_at),
            duration(state.started_at, state.ended_at),
            f"{sum(s.status.is_final for s in state.steps.values())}/{len(state.steps)}",
        )
        for state in states
    )
    print_table(
        ("RUN", "STATUS", "STARTED", "DURATION", "STEPS"),
        rows,
        empty="no runs yet: platformctl submit FILE starts one",
    )


def status(run: Run = "last", json: Json = False) -> None:
    """Show where RUN and its steps are."""
    from crucible.cli.live import print_state

    engine = _engine()
    state = engine.state(_run_id(engine, run))
    if json:
        print_json(dataclasses.asdict(state))
    else:
        print_state(state)


def watch(run: Run = "last", json: Json = False) -> None:
    """Follow RUN to its end. Ctrl-C stops watching, not the run."""
    from crucible.cli.live import follow

    engine = _engine()
    follow(engine, _run_id(engine, run), as_json=json, cancel_on_interrupt=False)


def logs(
    run: Run = "last",
    step: Annotated[str | None, typer.Argument(help="Step id; all steps if left out.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more.")] = False,
) -> None:
    """Print what the steps of RUN wrote."""
    engine = _engine()
    run_id = _run_id(engine, run)
    for step_id in (
        [step] if step else [s for s, x in engine.state(run_id).steps.items() if x.attempt]
    ):
        prefix = "" if step else f"[{step_id}] "
        for line in engine.logs(run_id, step_id, follow=follow):
            typer.echo(prefix + line)


def why(run: Run = "last", json: Json = False) -> None:
    """Say why RUN failed: the step, the cause, its last lines, what to do."""
    engine = _engine()
    explanation = engine.explain(_run_id(engine, run))
    if json:
        print_json(dataclasses.asdict(explanation))
    else:
        typer.echo(str(explanation))


def cancel(run: Run, json: Json = False) -> None:
    """End all processes of RUN. It can be resumed."""
    engine = _engine()
    state = engine.cancel(_run_id(engine, run))
    print_json(_summary(state)) if json else typer.echo(f"{state.run_id} {state.status}")


Detach = Annotated[bool, typer.Option("--detach", "-d", help="Return at once.")]


def retry(run: Run = "last", detach: Detach = False, json: Json = False) -> None:
    """Run the failed steps of RUN again, and what depends on them."""
    engine = _engine()
    _follow(engine, engine.retry(_run_id(engine, run)), detach=detach, as_json=json)


def resume(
    run: Run = "last",
    from_step: Annotated[
        str | None, typer.Option("--from", help="Run this step and all that depend on it again.")
    ] = None,
    detach: Detach = False,
    json: Json = False,
) -> None:
    """Continue a failed, cancelled or interrupted RUN; finished steps are kept."""
    engine = _engine()
    run_id = engine.resume(_run_id(engine, run), from_step=from_step)
    _follow(engine, run_id, detach=detach, as_json=json)


def _follow(engine: Engine, run_id: str, *, detach: bool, as_json: bool) -> None:
    from crucible.cli.live import follow

    if detach:
        print_json({"run_id": run_id}) if as_json else typer.echo(run_id)
        return
    follow(engine, run_id, as_json=as_json, cancel_on_interrupt=True)


def _engine() -> Engine:
    from crucible.engines import get_engine
    from crucible.settings import Settings

    return get_engine(Settings.load())


def _run_id(engine: Engine, run: str) -> str:
    if run != "last":
        return run
    states = engine.states(1)
    if not states:
        from crucible.errors import RunNotFound

        raise RunNotFound("last: there are no runs yet. Start one with platformctl submit FILE.")
    return states[0].run_id


def _summary(state: RunState) -> dict[str, object]:
    steps = {step.step_id: str(step.status) for step in state.steps.values()}
    return {
        "run_id": state.run_id,
        "pipeline": state.pipeline,
        "status": str(state.status),
        "started_at": state.started_at,
        "ended_at": state.ended_at,
        "steps": steps,
        "message": state.message,
    }
