"""Checks of who we are in a cluster, what we may do there, and what step pods may do."""

from __future__ import annotations

from collections.abc import Iterator

from crucible.cluster.finding import Finding, Site, unread
from crucible.cluster.paths import path_of
from crucible.cluster.permissions import Right, check_rights, secrets_finding
from crucible.cluster.resources import served_version
from crucible.cluster.trainjobs import GROUP, PLURAL
from crucible.errors import ClusterRefused, ObjectNotFound
from crucible.specs.context import PortForwardAccessSpec, ServiceProxyAccessSpec

_SUBMITTER = "crucible-submitter"
_FORWARDER = "crucible-port-forward"


def kubernetes(site: Site) -> Iterator[Finding]:
    """The API server answers us, and the namespace of runs is there."""
    connection = site.connection
    version = connection.get("ask for the version", "/version")
    identity = connection.identity
    detail = f"{version.get('gitVersion', '?')} at {identity.server}, {identity.origin}"
    yield Finding("kubernetes", True, detail)
    path = path_of("v1", "namespaces", name=site.namespace)
    try:
        connection.get("look for the namespace", path)
    except ObjectNotFound:
        fix = f"create it, or set kubernetes.namespace of context {site.context.metadata.name}"
        yield Finding("namespace", False, f"there is no namespace {site.namespace}", fix)
    except ClusterRefused:  # who has rights in one namespace only may not ask for it
        yield Finding("namespace", True, site.namespace)
    else:
        yield Finding("namespace", True, site.namespace)


def rights(site: Site) -> Iterator[Finding]:
    """What the commands need, a finding for each role that gives what is missing."""
    by_role = {
        f"{_SUBMITTER} in namespace {site.namespace}": list(_of_runs(site)),
        **{f"{_FORWARDER} in namespace {n}": _of_forward(n) for n in _forwarded(site)},
    }
    wanted = [right for group in by_role.values() for right in group]
    denied = {v.right for v in check_rights(site.connection, wanted) if not v.is_allowed}
    for role, group in by_role.items():
        missing = [str(right) for right in group if right in denied]
        if missing:
            fix = f"ask for the role {role} (manifests/base/system/rbac)"
            yield Finding("rights", False, f"may not {'; '.join(missing)}", fix)
    if not denied:
        yield Finding("rights", True, f"{len(wanted)} rights that the commands need")


def accounts(site: Site) -> Iterator[Finding]:
    """The service accounts of step pods are there."""
    kubernetes = site.context.kubernetes
    for name in (kubernetes.service_account, kubernetes.launcher_service_account):
        path = path_of("v1", "serviceaccounts", namespace=site.namespace, name=name)
        try:
            site.connection.get("look for the service account", path)
        except ObjectNotFound:
            detail = f"there is no {name} in namespace {site.namespace}"
            yield Finding("service account", False, detail, "apply manifests/base/run")
        except ClusterRefused:
            yield unread("service account", name, f"ask for the role {_SUBMITTER}")
        else:
            yield Finding("service account", True, name)


def secrets(site: Site) -> Iterator[Finding]:
    """The account of step pods, whose token their code can read, reads no Secret it need not."""
    account = site.context.kubernetes.service_account
    found = secrets_finding(site.connection, site.namespace, account)
    fix = ""
    if found.reads_all:
        fix = "every step can read every Secret there: use the roles of manifests/base/run"
    elif found.reads_all is None:
        fix = "let an administrator run doctor once"
    yield Finding("runner role", True, found.detail, fix)


def _of_runs(site: Site) -> Iterator[Right]:
    namespace, store = site.namespace, site.context.store
    for verb in ("list", "watch"):
        yield Right(verb, "pods", namespace)
        yield Right(verb, "workflows.argoproj.io", namespace)
    yield Right("list", "events", namespace)
    yield Right("get", "pods/log", namespace)
    if served_version(site.connection, GROUP, PLURAL) is not None:
        yield Right("list", f"{PLURAL}.{GROUP}", namespace)
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    if store.secret is not None and not all(site.environ.get(key) for key in keys):
        yield Right("get", "secrets", namespace, store.secret)
    api = site.context.pipelines.api
    if isinstance(api, ServiceProxyAccessSpec):
        name = f"http:{api.service}:{api.port}"
        for verb in ("get", "create"):
            yield Right(verb, "services/proxy", api.namespace, name)


def _of_forward(namespace: str) -> list[Right]:
    return [
        Right("get", "services", namespace),
        Right("list", "pods", namespace),
        Right("get", "pods/portforward", namespace),
    ]


def _forwarded(site: Site) -> list[str]:
    """Namespaces with Services that this machine reaches by port-forward."""
    context, found = site.context, []
    if isinstance(context.pipelines.api, PortForwardAccessSpec):
        found.append(context.pipelines.api.namespace)
    if context.store.forward is not None and context.store.client_endpoint is None:
        found.append(context.store.forward.namespace)
    mlflow = context.mlflow
    if mlflow is not None and mlflow.forward is not None and mlflow.client_uri is None:
        found.append(mlflow.forward.namespace)
    return list(dict.fromkeys(found))
