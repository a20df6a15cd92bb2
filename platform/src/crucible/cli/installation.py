"""Verbs on this installation: doctor, completion."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from crucible.cli.output import Json, print_json, print_table


class Shell(StrEnum):
    """Shells that `completion` writes for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    """Add this module's commands to ``app``."""
    for command in (doctor, completion):
        app.command()(command)


def doctor(json: Json = False) -> None:
    """Check this installation and its context; each finding with a fix.

    Folders, components, store and MLflow; on a cluster also the Kubernetes API, rights, Kubeflow
    Pipelines, Argo, trainer, queues and pools. Exits 1 if anything failed; advice is no failure.
    """
    from crucible.cli.checks import run_checks
    from crucible.settings import Settings

    checks = run_checks(Settings.load())
    if json:
        print_json([check.to_json() for check in checks])
    else:
        rows = ((check.verdict, check.name, check.detail, check.fix) for check in checks)
        print_table(("", "CHECK", "FOUND", "FIX"), rows, empty="no checks")
    raise typer.Exit(0 if all(check.passed for check in checks) else 1)


def completion(shell: Annotated[Shell, typer.Argument(help="Your shell.")]) -> None:
    """Print a completion script: eval "$(platformctl completion bash)"."""
    from typer._completion_shared import get_completion_script  # typer exports it nowhere else

    typer.echo(
        get_completion_script(
            prog_name="platformctl", complete_var="_PLATFORMCTL_COMPLETE", shell=shell.value
        )
    )
