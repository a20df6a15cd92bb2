"""Verbs on the artifact store: show, gc."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from crucible.cli.output import Json, print_json, print_table

if TYPE_CHECKING:
    from crucible.settings import Settings

app = typer.Typer(
    help="Artifacts: manifests and the bytes that they name.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def show(
    artifact: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help="sha256:DIGEST or RUN/STEP/OUTPUT.")
    ],
    json: Json = False,
) -> None:
    """Show an artifact's type, files, producer and parents."""
    from crucible.artifacts import open_store
    from crucible.engines import current_settings

    settings = current_settings()
    digest = _digest(artifact, settings)
    store = open_store(settings.store_uri)
    manifest = store.manifest(digest)
    places = {entry.path: store.locate(entry) for entry in manifest.files}
    if json:
        print_json({"digest": digest, **dataclasses.asdict(manifest), "places": places})
        return
    typer.echo(f"{digest}\ntype      {manifest.type}[{manifest.variant}]")
    for label, values in (("producer", manifest.producer), ("metadata", manifest.metadata)):
        typer.echo(f"{label:9} " + "  ".join(f"{k}={v}" for k, v in sorted(values.items())))
    for parent in manifest.parents:
        typer.echo(f"parent    {parent}")
    rows = ((e.path, f"{e.size_bytes:,}", places[e.path]) for e in manifest.files)
    print_table(("FILE", "BYTES", "PLACE"), rows, empty="no files")


@app.command()
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Also remove manifests no run, cache or model version names."),
    ] = False,
    json: Json = False,
) -> None:
    """Remove bytes that no manifest reaches; never what a run in progress needs."""
    from crucible.artifacts import gc as collect_garbage
    from crucible.artifacts import open_store
    from crucible.engines import current_settings

    settings = current_settings()
    roots = _roots(settings) if prune else None
    result = collect_garbage(open_store(settings.store_uri), roots=roots, dry_run=dry_run)
    if json:
        print_json(result.to_json())
    else:
        typer.echo(result.describe())


def _digest(artifact: str, settings: Settings) -> str:
    if artifact.startswith("sha256:"):
        return artifact
    from crucible.engines import get_engine
    from crucible.errors import UserError

    parts = artifact.split("/")
    if len(parts) != 3:
        raise UserError(f"{artifact}: not an artifact. Write sha256:DIGEST or RUN/STEP/OUTPUT.")
    run, step_id, output = parts
    steps = get_engine(settings).state(run).steps
    if step_id not in steps:
        raise UserError(f"{artifact}: run has no step {step_id}. Steps: {', '.join(steps)}.")
    outputs = steps[step_id].outputs
    if output not in outputs:
        names = ", ".join(outputs) or "none"
        raise UserError(f"{artifact}: step {step_id} has no output {output}. It has: {names}.")
    return outputs[output]


def _roots(settings: Settings) -> list[str]:
    from crucible.engines import get_engine
    from crucible.registry import Registry

    runs = get_engine(settings).states()
    digests = [d for run in runs for step in run.steps.values() for d in step.outputs.values()]
    return digests + Registry(settings).digests()
