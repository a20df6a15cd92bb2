"""The merge command: plan or run a merge file, without a pipeline.

Exit codes are those of `platformctl`: 0 done, 1 failed, 2 the file or its models are wrong, 75 try
again later, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crucible.artifacts.files import sync_folder, write_atomically
from crucible.errors import CrucibleError, Problem, UserError
from crucible_components.merging.options import MergeOptions

if TYPE_CHECKING:
    from crucible_components.merging.merge import Merge

EXIT_INTERRUPTED = 130
_TELL_SECONDS = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; prints one JSON document with ``--json``, else text."""
    arguments = _parser().parse_args(argv)
    try:
        document = _plan(arguments) if arguments.verb == "plan" else _run(arguments)
    except CrucibleError as error:
        _print_error(error, as_json=arguments.json)
        return error.exit_code
    except KeyboardInterrupt:
        _tell("interrupted; the same command goes on from here")
        return EXIT_INTERRUPTED
    sys.stdout.write(f"{json.dumps(document, indent=2) if arguments.json else _text(document)}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="platformctl merge", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    plan = verbs.add_parser("plan", help="What the merge would do, from headers alone")
    run = verbs.add_parser("run", help="Merge, or go on with a merge that was ended")
    for verb in (plan, run):
        verb.add_argument("file", type=Path, help="a merge file, as mergekit has them")
        verb.add_argument("--out", type=Path, help="folder of the result", required=verb is run)
        verb.add_argument("--json", action="store_true", help="print one JSON document")
        verb.add_argument("--arithmetic", choices=("float32", "mergekit"), default="float32")
        verb.add_argument("--random-seed", type=int, default=0)
        verb.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
        verb.add_argument("--cache-mib", type=int, default=192, help="of one tensor, a thread")
        verb.add_argument("--commit-mib", type=int, default=512, help="written between commits")
        verb.add_argument("--shard-gb", type=float, default=5.0, help="size of the result's files")
    run.add_argument("--report", type=Path, help="write the report to this HTML file")
    run.add_argument("--quiet", action="store_true", help="show no progress")
    return parser


def _options(arguments: argparse.Namespace) -> MergeOptions:
    problems = [
        Problem(f"--{name}", f"is {value}; more than 0 is meant.", "Leave it out.")
        for name, value in (
            ("threads", arguments.threads),
            ("cache-mib", arguments.cache_mib),
            ("commit-mib", arguments.commit_mib),
            ("shard-gb", arguments.shard_gb),
        )
        if value <= 0
    ]
    if problems:
        raise UserError("options are wrong.", problems)
    return MergeOptions(
        arithmetic=arguments.arithmetic,
        random_seed=arguments.random_seed,
        max_shard_bytes=int(arguments.shard_gb * 1e9),
        threads=arguments.threads,
        cache_bytes=arguments.cache_mib << 20,
        commit_bytes=arguments.commit_mib << 20,
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: {reason}. Give a merge file.") from error


def _plan(arguments: argparse.Namespace) -> dict[str, Any]:
    from crucible_components.merging.preparing import prepare
    from crucible_components.merging.recipe.parsing import parse

    text = _read(arguments.file)
    with prepare(parse(text), text, options=_options(arguments)) as merge:
        if arguments.out is not None:
            merge.check_room(_existing(arguments.out))
        return _described(merge)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that is there."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())


def _described(merge: Merge) -> dict[str, Any]:
    return {
        "method": merge.file.merge_method,
        "models": list(merge.sources),
        "tensors": len(merge.plans),
        "copied_tensors": sum(plan.copied_from is not None for plan in merge.plans),
        "parameters": sum(plan.num_elements for plan in merge.plans),
        "input_bytes": merge.input_bytes,
        "output_bytes": merge.output_bytes,
        "peak_memory_bytes": merge.peak_bytes,
        "files": sorted(merge.files),
        "notes": list(merge.notes),
        "tokenizer_differences": list(merge.tokenizer_differences),
    }


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    from crucible_components.merging.preparing import prepare
    from crucible_components.merging.recipe.parsing import parse
    from crucible_components.merging.reporting import render_report, summary_metrics

    text, out = _read(arguments.file), arguments.out
    file = parse(text)
    if out.exists():
        message = f"{out} exists; a merge never writes over anything."
        raise UserError(message, [Problem("--out", message, "Name a folder that does not exist.")])
    with prepare(file, text, options=_options(arguments)) as merge:
        working = out.with_name(f"{out.name}.part")
        working.mkdir(parents=True, exist_ok=True)
        started_at = time.monotonic()
        report = merge.run(working, _Progress(merge, quiet=arguments.quiet).update)
        working.rename(out)
        sync_folder(out.absolute().parent)
        if arguments.report is not None:
            write_atomically(arguments.report, render_report(report).encode())
        metrics = summary_metrics(report.figures, report.sources)
        seconds = round(time.monotonic() - started_at, 2)
        return {"out": str(out), "seconds": seconds, **_described(merge), "metrics": metrics}


class _Progress:
    """A line on stderr, now and then."""

    def __init__(self, merge: Merge, *, quiet: bool) -> None:
        self._quiet, self._told_at = quiet, 0.0
        self._gigabytes = merge.output_bytes / 1e9

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._quiet and (done == total or now - self._told_at >= _TELL_SECONDS):
            self._told_at = now
            _tell(f"{done}/{total} tensors of {self._gigabytes:.2f} GB")


def _text(document: dict[str, Any]) -> str:
    sizes = {name: document[f"{name}_bytes"] / 1e9 for name in ("input", "output", "peak_memory")}
    lines = [
        f"method     {document['method']}",
        *(f"model      {model}" for model in document["models"]),
        f"tensors    {document['tensors']} ({document['copied_tensors']} copied)",
        f"parameters {document['parameters']:,}",
        f"reads      {sizes['input']:.2f} GB, writes {sizes['output']:.2f} GB",
        f"memory     {sizes['peak_memory']:.2f} GB at most",
        *(f"note       {note}" for note in document["notes"]),
        *(f"tokenizer  {line}" for line in document["tokenizer_differences"]),
    ]
    if "out" in document:
        lines.append(f"done       {document['out']} in {document['seconds']:.1f} s")
    return "\n".join(lines)


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _print_error(error: CrucibleError, *, as_json: bool) -> None:
    problems = getattr(error, "problems", ())
    if as_json:
        sys.stdout.write(json.dumps(error.to_json(), indent=2) + "\n")
        return
    if not problems:
        _tell(f"error: {error.message}")
        return
    count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
    _tell(f"error: this merge cannot be done ({count}):")
    for problem in problems:
        _tell(f"  {problem}")
