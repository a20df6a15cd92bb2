"""`platformctl`: the verbs, one module per group. Commands print; what they call decides.

Start-up counts: this module and the command modules import typer and the standard library only, and
everything else inside the command that needs it (`tests/bench/cli_startup.py`).
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from crucible.cli import (
    artifacts,
    components,
    context,
    images,
    installation,
    merge,
    models,
    pipelines,
    runs,
)

COMPLETION_VARIABLE = "_PLATFORMCTL_COMPLETE"
"""Set by the scripts of `platformctl completion` when a word is to be completed."""

app = typer.Typer(
    name="platformctl",
    help="From one pipeline.yaml to a trained, merged, evaluated and promoted model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich help costs 0.1 s of imports on every --help
    context_settings={"help_option_names": ["-h", "--help"]},
)
for register in (pipelines.register, runs.register, installation.register):
    register(app)
app.add_typer(models.app, name="models")
app.add_typer(components.app, name="components")
app.add_typer(artifacts.app, name="artifacts")
app.add_typer(context.app, name="context")
app.add_typer(images.app, name="images")
app.add_typer(merge.app, name="merge")


def _print_version(wanted: bool) -> None:
    if wanted:
        from crucible import __version__

        typer.echo(f"platformctl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks of errors and debug logs.")
    ] = False,
) -> None:
    if debug:
        import logging

        from crucible import logs

        logs.configure(level=logging.DEBUG)


def main() -> None:
    """Run the command line; exits 0 done, 1 failed, 2 user error, 75 temporary, 130 interrupted."""
    from crucible.errors import CrucibleError

    if COMPLETION_VARIABLE in os.environ:
        from typer._completion_classes import completion_init  # else only with add_completion

        completion_init()
    try:
        app(prog_name="platformctl")
    except BrokenPipeError:  # the reader of our output went away, e.g. `platformctl logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        from crucible.cli.output import print_error

        if not isinstance(error, CrucibleError):
            fault = "This is a fault of platformctl; --debug shows where."
            error = CrucibleError(f"{type(error).__name__}: {error}. {fault}")
        print_error(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
