"""Verbs on a pipeline file: validate, plan, submit, schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crucible.cli.output import Json, print_json

if TYPE_CHECKING:
    from crucible.engines.base import Engine
    from crucible.engines.foreign import CompiledPipeline
    from crucible.plan.model import CacheOutlook, Plan
    from crucible.specs import PipelineSpec

File = Annotated[Path, typer.Argument(metavar="FILE", help="A pipeline.yaml.", show_default=False)]
Preset = Annotated[
    str | None, typer.Option("--preset", "-p", help="Values from presets/NAME.yaml beside FILE.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="PARAM=VALUE; wins over preset, may repeat.")
]


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    for command in (validate, plan, submit, compile_, schema):
        app.command(command.__name__.rstrip("_"))(command)


def validate(file: File, preset: Preset = None, set_: Set = None, json: Json = False) -> None:
    """Check FILE: every mistake at once, with file:line:column and a fix."""
    spec = _load(file, preset, set_)
    if json:
        print_json({"valid": True, "pipeline": spec.metadata.name, "steps": list(spec.steps)})
    else:
        typer.echo(f"{file}: valid ({spec.metadata.name}, {len(spec.steps)} steps)")


def plan(file: File, preset: Preset = None, set_: Set = None, json: Json = False) -> None:
    """Show what FILE would run: steps, inputs, resources, what is cached, what changed."""
    from crucible.engines import get_engine
    from crucible.plan import diff, plan_document, render_plan
    from crucible.settings import Settings

    built, last, outlook = _planned(_load(file, preset, set_), get_engine(Settings.load()))
    changes = diff(built, last[1]) if last else []
    if json:
        print_json(
            {
                **plan_document(built, outlook),
                "last_run": last[0] if last else None,
                "changes": changes,
            }
        )
        return
    typer.echo(render_plan(built, outlook))
    if last:
        typer.echo(f"\nChanges since {last[0]}: {'none' if not changes else ''}".rstrip())
        for line in changes:
            typer.echo(f"  {line}")


def submit(
    file: File,
    preset: Preset = None,
    set_: Set = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Print the run id and return at once.")
    ] = False,
    run_id: Annotated[
        str | None, typer.Option(help="Submit under this id; a second time changes nothing.")
    ] = None,
    json: Json = False,
) -> None:
    """Run FILE and follow it to its end. Ctrl-C ends the run; `resume` continues it.

    FILE may also be a pipeline that the kfp SDK compiled, where the context is a cluster.
    """
    from crucible.cli.live import follow
    from crucible.engines import get_engine
    from crucible.settings import Settings

    engine = get_engine(Settings.load())
    compiled = _compiled(file, preset, set_)
    if compiled is not None:
        started = engine.submit_compiled(compiled, name=run_id)
    else:
        spec = _load(file, preset, set_)
        started = engine.submit(_build(spec, engine), run_id=run_id)
    if detach:
        print_json({"run_id": started}) if json else typer.echo(started)
        return
    follow(engine, started, as_json=json, cancel_on_interrupt=True)


def compile_(
    file: File,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here; standard output if left out.")
    ] = None,
    preset: Preset = None,
    set_: Set = None,
    context: Annotated[
        str | None, typer.Option(help="Context to compile for; the current one if left out.")
    ] = None,
) -> None:
    """Compile FILE to the IR of Kubeflow Pipelines, as `submit` sends it."""
    from crucible.cluster.contexts import load
    from crucible.engines.kfp.document import compiled, to_yaml
    from crucible.plan import build
    from crucible.settings import Settings

    chosen = load(context or Settings.load().context)
    images = {str(name): image for name, image in chosen.images.items()}
    text = to_yaml(compiled(build(_load(file, preset, set_), images=images), chosen))
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text)
        typer.echo(f"{output}: {len(text) // 1024} KiB", err=True)


def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here.")] = None,
) -> None:
    """Print the JSON Schema of pipeline files, for editors."""
    import json

    from crucible.specs import pipeline_json_schema

    text = json.dumps(pipeline_json_schema(), indent=2)
    if output is None:
        typer.echo(text)
    else:
        output.write_text(text + "\n")


def _load(file: Path, preset: str | None, set_: list[str] | None) -> PipelineSpec:
    from crucible.specs import load_pipeline

    return load_pipeline(file, preset=preset, overrides=_overrides(set_ or []))


def _overrides(pairs: list[str]) -> dict[str, str]:
    from crucible.errors import UserError

    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise UserError(f"--set {wrong[0]}: no value. Write --set PARAM=VALUE.")
    return dict(pair.split("=", 1) for pair in pairs)


def _compiled(file: Path, preset: str | None, set_: list[str] | None) -> CompiledPipeline | None:
    """FILE as a compiled pipeline, or None if it is one of ours."""
    from crucible.engines.foreign import is_compiled

    if not is_compiled(file):
        return None
    from crucible.engines.foreign import load_compiled
    from crucible.errors import UserError

    if preset is not None:
        raise UserError("--preset: a compiled pipeline has none. Give its parameters with --set.")
    return load_compiled(file, _overrides(set_ or []))


def _build(spec: PipelineSpec, engine: Engine) -> Plan:
    from crucible.plan import build

    def resolve_model(uri: str) -> str:
        from crucible.engines import current_settings
        from crucible.registry import Registry

        return Registry(current_settings()).resolve(uri)

    return build(spec, images=engine.images, resolve_model=resolve_model)


def _planned(
    spec: PipelineSpec, engine: Engine
) -> tuple[Plan, tuple[str, Plan] | None, dict[str, CacheOutlook]]:
    from crucible.plan import cache_outlook

    built = _build(spec, engine)
    last = engine.last_plan(built.name)
    return built, last, cache_outlook(built, engine.store.cache_get, last[1] if last else None)
