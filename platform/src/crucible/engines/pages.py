"""The reports of a run as pages in its folder on this machine, where a person opens them.

``report.html`` is the last one: the exit step's if it wrote one. Those of other steps are
``reports/STEP.OUTPUT.html``. They are copies, so that any browser shows them whatever the store is,
and nobody who edits one changes an artifact.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from crucible.artifacts.files import sha256_of, write_atomically
from crucible.artifacts.store import Store
from crucible.engines.local.run_dir import RunDir
from crucible.engines.state import RunState
from crucible.errors import CrucibleError
from crucible.plan.model import Plan
from crucible.sdk.types import Report

_FILE = "report.html"
"""Of the artifact, by the contract of `Report`."""


def write_pages(run_dir: RunDir, plan: Plan, state: RunState, store: Store) -> Iterator[str]:
    """Replace the pages of the run's folder; yields a warning for each that cannot be written."""
    written = list(_reports(plan, state))
    if not written:
        run_dir.report.unlink(missing_ok=True)
    shutil.rmtree(run_dir.reports_dir, ignore_errors=True)
    for place, (label, digest) in enumerate(written, start=1):
        last = place == len(written)
        path = run_dir.report if last else run_dir.reports_dir / f"{label}.html"
        try:
            _copy(store, digest, path)
        except (CrucibleError, OSError) as error:
            yield f"the report {label} is not in the run's folder: {error}"


def write_last_page(run_dir: RunDir, plan: Plan, state: RunState, store: Store) -> Path | None:
    """Bring ``report.html`` up to date and return it; None if the run wrote no report.

    Raises:
        ArtifactError: the store does not have it any more.
        OSError: this machine's folder cannot be written.
    """
    written = list(_reports(plan, state))
    if not written:
        return None
    digest = written[-1][1]
    wanted = store.manifest(digest).file(_FILE).sha256
    if not run_dir.report.is_file() or sha256_of(run_dir.report) != wanted:
        _copy(store, digest, run_dir.report)
    return run_dir.report


def _reports(plan: Plan, state: RunState) -> Iterator[tuple[str, str]]:
    """``STEP.OUTPUT`` and digest of each report that was written, in the order of the plan."""
    for step in plan.all_steps:
        outputs = state.steps[step.id].outputs
        for name, kind in step.outputs.items():
            if kind.name == Report.type_name and name in outputs:
                yield f"{step.id}.{name}", outputs[name]


def _copy(store: Store, digest: str, path: Path) -> None:
    with store.reader(digest).open(_FILE) as page:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page.read(), durable=False)
