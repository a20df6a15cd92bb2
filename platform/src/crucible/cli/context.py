"""Verbs on contexts, the places where pipelines run: list, show, use, add, remove, current."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crucible.cli.output import Json, print_json, print_table

if TYPE_CHECKING:
    from crucible.cluster.contexts import ContextEntry

app = typer.Typer(
    help="Where pipelines run: this machine or a cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _complete(incomplete: str) -> list[str]:
    from crucible.cluster.contexts import list_contexts

    return [entry.name for entry in list_contexts() if entry.name.startswith(incomplete)]


Name = Annotated[str, typer.Argument(metavar="NAME", help="Context.", autocompletion=_complete)]


@app.command("list")
def list_(json: Json = False) -> None:
    """List the contexts; * marks the current one."""
    from crucible.cluster.contexts import list_contexts

    entries = list_contexts()
    if json:
        print_json([_to_json(entry) for entry in entries])
        return
    rows = (
        ("*" if entry.is_current else "", entry.name, str(entry.path or "this machine"))
        for entry in entries
    )
    print_table(("", "CONTEXT", "FILE"), rows, empty="no contexts")


@app.command()
def current(json: Json = False) -> None:
    """Print the current context's name."""
    from crucible.cluster.contexts import list_contexts
    from crucible.settings import LOCAL_CONTEXT, Settings

    name = Settings.load().context or LOCAL_CONTEXT
    if not json:
        typer.echo(name)
        return
    path = next((entry.path for entry in list_contexts() if entry.name == name), None)
    print_json({"name": name, "path": path})


@app.command()
def show(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Context; the current one if left out.",
                       autocompletion=_complete),
    ] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Check a context's file and print it, or every field of it with --json."""
    from crucible.cluster.contexts import context_path, load
    from crucible.settings import LOCAL_CONTEXT, Settings

    chosen = name or Settings.load().context or LOCAL_CONTEXT
    if chosen == LOCAL_CONTEXT:
        settings = Settings.load()
        place = {"home_dir": str(settings.home_dir), "store": settings.store_uri}
        place["mlflow"] = settings.mlflow_tracking_uri
        lines = "\n".join(f"{key}: {value}" for key, value in place.items())
        print_json({"name": chosen, **place}) if json else typer.echo(f"this machine\n{lines}")
        return
    document = load(chosen)
    if json:
        print_json(document.model_dump(mode="json", by_alias=True))
    else:
        typer.echo(context_path(chosen).read_text(), nl=False)


@app.command()
def use(name: Name, json: Json = False) -> None:
    """Make NAME the current context; 'local' is this machine."""
    import os

    from crucible.cluster.contexts import use_context
    from crucible.settings import CONTEXT_VARIABLE

    use_context(name)
    print_json({"name": name}) if json else typer.echo(f"pipelines now run in {name}")
    overruled = os.environ.get(CONTEXT_VARIABLE)
    if overruled and overruled != name:
        typer.echo(f"warning: {CONTEXT_VARIABLE}={overruled} wins in this shell", err=True)


@app.command()
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of kind: Context.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the context of the same name.")
    ] = False,
    json: Json = False,
) -> None:
    """Check FILE and keep a copy as a context of the name that it gives."""
    from crucible.cluster.contexts import add_context

    entry = add_context(file, replace=replace)
    if json:
        print_json(_to_json(entry))
    else:
        typer.echo(f"added {entry.name}: platformctl context use {entry.name} makes it current")


@app.command()
def remove(name: Name, json: Json = False) -> None:
    """Forget the context NAME; the cluster and its runs stay as they are."""
    from crucible.cluster.contexts import remove_context

    remove_context(name)
    print_json({"name": name}) if json else typer.echo(f"removed {name}")


def _to_json(entry: ContextEntry) -> dict[str, object]:
    return {"name": entry.name, "path": entry.path, "is_current": entry.is_current}
