"""What `doctor` looks at in a cluster. A check never raises: what goes wrong is its finding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from crucible.cluster import capacity_checks, service_checks, user_checks
from crucible.cluster.connection import connect
from crucible.cluster.finding import Finding, Site
from crucible.cluster.patience import HURRIED
from crucible.errors import CrucibleError
from crucible.specs.context import ContextDocument, UrlAccessSpec

Check = Callable[[Site], Iterable[Finding]]

_PARALLEL = 8
_CHECKS: tuple[tuple[str, Check], ...] = (
    ("rights", user_checks.rights),
    ("accounts", user_checks.accounts),
    ("secrets", user_checks.secrets),
    ("kfp", service_checks.kfp),
    ("argo", service_checks.argo),
    ("store", service_checks.store),
    ("mlflow", service_checks.mlflow),
    ("trainer", capacity_checks.trainer),
    ("queues", capacity_checks.queues),
    ("pools", capacity_checks.pools),
)
"""In the order in which a fix should be tried."""


def cluster_findings(
    context: ContextDocument, environ: Mapping[str, str] | None = None
) -> list[Finding]:
    """All findings about the cluster of ``context``; slow checks run at the same time."""
    connection = connect(context.kubernetes, patience=HURRIED)
    site = Site(context, connection) if environ is None else Site(context, connection, environ)
    try:
        first = _guarded("kubernetes", user_checks.kubernetes, site)
        is_up = all(finding.passed for finding in first)
        chosen = [pair for pair in _CHECKS if is_up or _does_without(pair[0], context)]
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="doctor") as pool:
            found = list(pool.map(lambda pair: _guarded(pair[0], pair[1], site), chosen))
    finally:
        connection.close()
    skipped = [name for name, _ in _CHECKS if name not in dict(chosen)]
    findings = [*first, *(finding for part in found for finding in part)]
    if skipped:
        detail = f"{', '.join(skipped)}: not looked at, they need the Kubernetes API"
        findings.append(Finding("others", False, detail, "mend the first finding"))
    return findings


def _does_without(name: str, context: ContextDocument) -> bool:
    """Whether a check can run where the Kubernetes API does not answer."""
    if name == "kfp":
        return isinstance(context.pipelines.api, UrlAccessSpec)
    if name == "store":
        return context.store.forward is None or context.store.client_endpoint is not None
    if name == "mlflow":
        mlflow = context.mlflow
        return mlflow is None or mlflow.forward is None or mlflow.client_uri is not None
    return False


def _guarded(name: str, check: Check, site: Site) -> list[Finding]:
    try:
        return list(check(site))
    except CrucibleError as error:
        return [Finding(name, False, error.message, "see the message")]
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        return [Finding(name, False, detail, "this is a fault of platformctl; report it")]
