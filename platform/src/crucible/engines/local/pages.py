"""The reports of a run as pages in its folder, where a person opens them.

``report.html`` is the last one: the exit step's if it wrote one. Those of other steps are
``reports/STEP.OUTPUT.html``. They are copies, so that any browser shows them whatever the store is,
and nobody who edits one changes an artifact.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from crucible.artifacts.files import write_atomically
from crucible.engines.local.run import Run
from crucible.errors import CrucibleError
from crucible.sdk.types import Report

_FILE = "report.html"
"""Of the artifact, by the contract of `Report`."""


def write_pages(run: Run) -> None:
    """Replace the pages of the run's folder; what cannot be written is a warning."""
    run_dir = run.run_dir
    run_dir.report.unlink(missing_ok=True)
    shutil.rmtree(run_dir.reports_dir, ignore_errors=True)
    written = [
        (f"{step.id}.{name}", run.history.state.steps[step.id].outputs[name])
        for step in run.plan.all_steps
        for name, kind in step.outputs.items()
        if kind.name == Report.type_name and name in run.history.state.steps[step.id].outputs
    ]
    for place, (label, digest) in enumerate(written, start=1):
        last = place == len(written)
        path = run_dir.report if last else run_dir.reports_dir / f"{label}.html"
        try:
            _copy(run, digest, path)
        except (CrucibleError, OSError) as error:
            run.warn(f"the report {label} is not in the run's folder: {error}")


def _copy(run: Run, digest: str, path: Path) -> None:
    with run.store.reader(digest).open(_FILE) as page:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, page.read(), durable=False)
