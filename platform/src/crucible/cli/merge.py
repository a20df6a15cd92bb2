"""Verbs on merge files: what a merge would do, and doing it, without a pipeline.

This process becomes one of the data plane: the control plane never loads torch.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from crucible.cli.output import Json

app = typer.Typer(
    help="Merge models by a merge file, as mergekit has them, without a pipeline.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Arithmetic(StrEnum):
    """In which types a merge computes."""

    FLOAT32 = "float32"
    MERGEKIT = "mergekit"


MergeFile = Annotated[Path, typer.Argument(metavar="FILE", help="A merge file.")]
ArithmeticChoice = Annotated[
    Arithmetic,
    typer.Option("--arithmetic", help="float32 with one rounding, or as mergekit computes."),
]
Seed = Annotated[int, typer.Option("--random-seed", help="Of methods that draw.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Default: every core.")]
CacheMib = Annotated[
    int | None, typer.Option("--cache-mib", help="Memory for one tensor, a thread. Default: 192.")
]
CommitMib = Annotated[
    int | None,
    typer.Option("--commit-mib", help="Written between commits: what a kill costs. Default: 512."),
]
ShardGb = Annotated[
    float | None, typer.Option("--shard-gb", help="Largest file of the result. Default: 5.")
]


@app.command()
def plan(
    file: MergeFile,
    out: Annotated[
        Path | None, typer.Option("--out", help="Check that the result has room there.")
    ] = None,
    arithmetic: ArithmeticChoice = Arithmetic.FLOAT32,
    random_seed: Seed = 0,
    threads: Threads = None,
    cache_mib: CacheMib = None,
    shard_gb: ShardGb = None,
    json: Json = False,
) -> None:
    """Show what the merge would do, or all that is wrong with it, from headers alone."""
    options = _limits(threads, cache_mib, shard_gb) | {"--out": out}
    _run("plan", file, arithmetic, random_seed, options, json=json)


@app.command()
def run(  # noqa: PLR0913 - one for each option
    file: MergeFile,
    out: Annotated[Path, typer.Option("--out", help="Folder of the result; must not exist.")],
    commit_mib: CommitMib = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write the merge's report to this HTML file.")
    ] = None,
    arithmetic: ArithmeticChoice = Arithmetic.FLOAT32,
    random_seed: Seed = 0,
    threads: Threads = None,
    cache_mib: CacheMib = None,
    shard_gb: ShardGb = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    json: Json = False,
) -> None:
    """Merge, or go on with the same merge where it was ended."""
    options = _limits(threads, cache_mib, shard_gb)
    options |= {"--out": out, "--report": report, "--commit-mib": commit_mib}
    _run("run", file, arithmetic, random_seed, options, json=json, quiet=quiet)


def _limits(
    threads: int | None, cache_mib: int | None, shard_gb: float | None
) -> dict[str, object]:
    return {"--threads": threads, "--cache-mib": cache_mib, "--shard-gb": shard_gb}


def _run(
    verb: str,
    file: Path,
    arithmetic: Arithmetic,
    random_seed: int,
    options: dict[str, object],
    **flags: bool,
) -> None:
    import importlib.util
    import os
    import sys

    from crucible.errors import UserError

    for module in ("torch", "crucible_components"):
        if importlib.util.find_spec(module) is None:
            raise UserError(
                f"{module} is not installed here. Install crucible[train] to merge on this machine."
            )
    command = [sys.executable, "-m", "crucible_components.merging", verb, str(file)]
    command += ["--arithmetic", arithmetic.value, "--random-seed", str(random_seed)]
    for name, value in options.items():
        command += [] if value is None else [name, str(value)]
    command += [f"--{name}" for name, is_set in flags.items() if is_set]
    os.execv(command[0], command)  # so that signals are the merge's own
