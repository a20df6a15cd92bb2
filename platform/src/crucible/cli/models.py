"""Verbs on the model registry: list, show, promote, rollback, pull."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crucible.cli.output import Json, clock, print_json, print_table

if TYPE_CHECKING:
    from crucible.registry import Registry

app = typer.Typer(
    help="Registered models: versions, gate decisions, aliases.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Registered model.")]


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="Only this model.")] = None,
    json: Json = False,
) -> None:
    """List versions with their aliases and gate decisions."""
    registry = _registry()
    found = [v for each in ([name] if name else registry.names()) for v in registry.versions(each)]
    if json:
        print_json([version.to_json() for version in found])
        return
    rows = (
        (
            version.name,
            str(version.version),
            ", ".join(version.aliases) or "-",
            version.gate_status,
            version.summary,
            clock(version.created_at),
            version.run_id,
        )
        for version in found
    )
    print_table(
        ("MODEL", "VERSION", "ALIASES", "GATE", "DECISION", "CREATED", "RUN"),
        rows,
        empty="no registered models: a pipeline with a release block registers one",
    )


@app.command()
def show(
    name: Name,
    version: Annotated[str, typer.Argument(help="Version number or alias.")] = "champion",
    json: Json = False,
) -> None:
    """Show one version: gate decision with its numbers, lineage, artifact."""
    found = _registry().show(name, version)
    if json:
        print_json(found.to_json())
    else:
        typer.echo(found.describe())


@app.command()
def promote(
    name: Name,
    version: Annotated[str, typer.Argument(help="Version number or alias.")],
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "champion",
    force: Annotated[bool, typer.Option("--force", help="Move it against the gate.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why; needed with --force, logged.")] = None,
    json: Json = False,
) -> None:
    """Move an alias to a version that passed its gate."""
    moved = _registry().promote(name, version, alias=alias, force=force, reason=reason)
    _report(moved.to_json(), f"{name}@{alias} is version {moved.version}", as_json=json)


@app.command()
def rollback(
    name: Name,
    alias: Annotated[str, typer.Option(help="The alias to move back.")] = "champion",
    json: Json = False,
) -> None:
    """Give the alias back to the previous champion."""
    moved = _registry().rollback(name, alias=alias)
    _report(moved.to_json(), f"{name}@{alias} is version {moved.version} again", as_json=json)


@app.command()
def pull(
    model: Annotated[str, typer.Argument(help="models:/NAME@alias, models:/NAME/3 or NAME.")],
    folder: Annotated[Path, typer.Argument(help="Where to put the files; must not exist.")],
    json: Json = False,
) -> None:
    """Copy a version's files to a folder, digests verified."""
    uri = model if model.startswith("models:/") else f"models:/{model}@champion"
    digest = _registry().pull(uri, folder)
    _report(
        {"model": uri, "digest": digest, "folder": str(folder)}, f"{folder} {digest}", as_json=json
    )


def _registry() -> Registry:
    from crucible.engines import current_settings
    from crucible.registry import Registry

    return Registry(current_settings())


def _report(document: dict[str, object], text: str, *, as_json: bool) -> None:
    print_json(document) if as_json else typer.echo(text)
