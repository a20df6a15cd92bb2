"""Verbs on the component catalogue: list, show."""

from __future__ import annotations

from typing import Annotated

import typer

from crucible.cli.output import Json, print_json, print_table

app = typer.Typer(
    help="What `uses:` may name in a pipeline file.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_(json: Json = False) -> None:
    """List the components with their inputs and outputs."""
    from crucible.sdk.catalogue import component_names, describe, load_component

    infos = [describe(load_component(name)) for name in component_names()]
    if json:
        print_json([info.to_json() for info in infos])
        return
    rows = (
        (
            info.name,
            ", ".join(slot.name + ("?" if slot.optional else "") for slot in info.inputs) or "-",
            ", ".join(slot.name for slot in info.outputs) or "-",
            info.summary,
        )
        for info in infos
    )
    print_table(("COMPONENT", "INPUTS", "OUTPUTS", "WHAT IT DOES"), rows, empty="none")


@app.command()
def show(
    component: Annotated[str, typer.Argument(help="Catalogue name or package.module:Class.")],
    json: Json = False,
) -> None:
    """Show one component: slots, settings with defaults, resources."""
    from crucible.sdk.catalogue import describe, load_component, reference_markdown

    cls = load_component(component)
    if json:
        print_json(describe(cls).to_json())
        return
    from rich.markdown import Markdown

    from crucible.cli.output import console

    out = console()
    text = reference_markdown(cls)
    out.print(Markdown(text) if out.is_terminal else text, markup=False)
