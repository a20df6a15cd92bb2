"""How results leave the command line: tables for people, one JSON document for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from crucible.errors import CrucibleError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def console(*, stderr: bool = False) -> Console:
    """A console that honours NO_COLOR and drops styles where the output is no terminal."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """One indented document on stdout."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """A borderless table, or ``empty`` where there are no rows."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")  # a path that is cut off is of no use
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if table.row_count:
        console().print(table)
    else:
        typer.echo(empty)


def print_error(error: CrucibleError, *, as_json: bool) -> None:
    """The message and every problem: on stderr, or as JSON on stdout."""
    problems = getattr(error, "problems", ())
    if as_json:
        print_json(error.to_json())
        return
    typer.echo(f"error: {error.message}", err=True)
    for problem in problems:
        typer.echo(f"  {problem}", err=True)


def duration(started_at: float | None, ended_at: float | None) -> str:
    """``-``, ``4.2 s``, ``3 min 07 s`` or ``2 h 05 min``; until now if there is no end."""
    if started_at is None:
        return "-"
    seconds = (ended_at or time.time()) - started_at
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def clock(at: float | None) -> str:
    """Local date and time, or ``-``."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else "-"
