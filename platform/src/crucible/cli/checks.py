"""What `doctor` looks at. A check never raises: what goes wrong is its finding."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass

from crucible.errors import CrucibleError
from crucible.settings import Settings

MIN_FREE_GIB = 5.0
"""The quickstart writes about 0.3 GiB; a first own run with a 1 B model about 4."""


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    passed: bool
    detail: str
    fix: str = ""
    """For what passed: advice."""

    @property
    def verdict(self) -> str:
        if not self.passed:
            return "FAILED"
        return "advice" if self.fix else "ok"

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def run_checks(settings: Settings) -> list[Check]:
    """All findings, in the order in which a fix should be tried.

    Where the context is a cluster, store and MLflow are its own, and the cluster is looked at too.

    Raises:
        UserError: there is no such context, or its file has mistakes.
    """
    if settings.context is None:
        return _local(settings, ())
    from crucible.cluster.checks import cluster_findings
    from crucible.cluster.contexts import load_current

    findings = cluster_findings(load_current(settings))
    of_cluster = [Check(each.name, each.passed, each.detail, each.fix) for each in findings]
    return _local(settings, ("artifact store", "training", "mlflow")) + of_cluster


def _local(settings: Settings, without: Collection[str]) -> list[Check]:
    checks: tuple[tuple[str, Callable[[Settings], Check]], ...] = (
        ("python", _python),
        ("home folder", _home),
        ("disk", _disk),
        ("artifact store", _store),
        ("components", _components),
        ("training", _training),
        ("mlflow", _mlflow),
    )
    return [_guarded(name, check, settings) for name, check in checks if name not in without]


def _guarded(name: str, check: Callable[[Settings], Check], settings: Settings) -> Check:
    try:
        return check(settings)
    except (CrucibleError, OSError, ImportError) as error:
        return Check(name, False, f"{type(error).__name__}: {error}", "see the message")


def _python(settings: Settings) -> Check:
    found = ".".join(str(part) for part in sys.version_info[:3])
    is_recent = sys.version_info >= (3, 11)
    return Check("python", is_recent, found, "" if is_recent else "install Python 3.11 or later")


def _home(settings: Settings) -> Check:
    settings.home_dir.mkdir(parents=True, exist_ok=True)
    writable = os.access(settings.home_dir, os.W_OK)
    return Check(
        "home folder",
        writable,
        str(settings.home_dir),
        "" if writable else "make it writable, or set CRUCIBLE_HOME",
    )


def _disk(settings: Settings) -> Check:
    free_gib = shutil.disk_usage(settings.home_dir).free / 2**30
    enough = free_gib >= MIN_FREE_GIB
    fix = "" if enough else f"free {MIN_FREE_GIB:g} GiB, or `platformctl artifacts gc --prune`"
    return Check("disk", enough, f"{free_gib:.1f} GiB free", fix)


def _store(settings: Settings) -> Check:
    from crucible.artifacts import open_store

    open_store(settings.store_uri).check()
    return Check("artifact store", True, settings.store_uri)


def _components(settings: Settings) -> Check:
    from crucible.sdk.catalogue import component_names, load_component

    names = component_names()
    for name in names:
        load_component(name)
    return Check("components", True, f"{len(names)} load")


def _training(settings: Settings) -> Check:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers", "safetensors") if not find_spec(name)]
    detail = "torch, transformers and safetensors are installed"
    if missing:
        detail = f"{', '.join(missing)} not installed"
    fix = "pip install 'crucible-platform[train]'" if missing else ""
    return Check("training", not missing, detail, fix)


def _mlflow(settings: Settings) -> Check:
    from crucible.tracking import check_server

    check_server(settings)
    return Check("mlflow", True, settings.mlflow_tracking_uri)
