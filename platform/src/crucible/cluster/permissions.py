"""What we may do in a cluster, and what the account of step pods may do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from crucible.cluster.connection import Connection
from crucible.cluster.paths import path_of
from crucible.cluster.wire import Json
from crucible.errors import ClusterRefused

_AUTHORIZATION = "authorization.k8s.io/v1"
_RBAC = "rbac.authorization.k8s.io/v1"
_PARALLEL = 8
_READING = ("get", "list", "watch")


@dataclass(frozen=True)
class Right:
    """One thing that somebody may or may not do."""

    verb: str
    resource: str
    """``pods``, ``pods/log``, ``trainjobs.trainer.kubeflow.org``."""
    namespace: str | None = None
    """None: in all of them, or the resource is in none."""
    name: str | None = None
    """None: all objects."""

    def __str__(self) -> str:
        what = f"{self.resource} {self.name}" if self.name else self.resource
        return f"{self.verb} {what}{f' in namespace {self.namespace}' if self.namespace else ''}"


@dataclass(frozen=True)
class Verdict:
    """What the API server says about a right."""

    right: Right
    is_allowed: bool
    reason: str = ""


@dataclass(frozen=True)
class SecretsFinding:
    """Whether an account may read every Secret of its namespace."""

    reads_all: bool | None
    """None: neither the question nor the roles may be read by us."""
    detail: str


def check_rights(connection: Connection, rights: Iterable[Right]) -> list[Verdict]:
    """Ask the API server about our own rights, several at a time; errors as `Connection.call`."""

    def ask(right: Right) -> Verdict:
        path = path_of(_AUTHORIZATION, "selfsubjectaccessreviews")
        return _review(connection, path, right, {})

    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="rights") as pool:
        return list(pool.map(ask, rights))


def account_may(connection: Connection, namespace: str, account: str, right: Right) -> Verdict:
    """Ask about the right of a service account, which only administrators may.

    Raises:
        ClusterRefused: we are none.
        CrucibleError: else as `Connection.call`.
    """
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    subject = {
        "user": f"system:serviceaccount:{namespace}:{account}",
        "groups": [*groups, "system:authenticated"],
    }
    path = path_of(_AUTHORIZATION, "subjectaccessreviews")
    return _review(connection, path, right, subject)


def secrets_finding(connection: Connection, namespace: str, account: str) -> SecretsFinding:
    """Whether ``account`` may read every Secret of ``namespace``, as KFP's stock role lets it.

    Asked of the API server, or read from roles and their bindings where we may not ask; errors as
    `Connection.call`, but for what we may not read.
    """
    try:
        for verb in ("get", "list"):
            right = Right(verb, "secrets", namespace)
            if account_may(connection, namespace, account, right).is_allowed:
                return SecretsFinding(True, f"{account} may {right}")
    except ClusterRefused:
        return _from_roles(connection, namespace, account)
    return SecretsFinding(False, f"{account} may read only Secrets that a role names")


def _review(connection: Connection, path: str, right: Right, subject: Json) -> Verdict:
    resource, _, part = right.resource.partition("/")
    resource, _, group = resource.partition(".")
    attributes = {
        "verb": right.verb,
        "group": group,
        "resource": resource,
        "subresource": part,
        "namespace": right.namespace or "",
        "name": right.name or "",
    }
    kind = "SubjectAccessReview" if subject else "SelfSubjectAccessReview"
    spec = {"resourceAttributes": attributes, **subject}
    body = {"apiVersion": _AUTHORIZATION, "kind": kind, "spec": spec}
    status = connection.request(f"ask for the right to {right}", "POST", path, body=body)["status"]
    said = status.get("reason") or status.get("evaluationError") or ""
    return Verdict(right, bool(status.get("allowed")), said)


def _from_roles(connection: Connection, namespace: str, account: str) -> SecretsFinding:
    unread = []
    for scope in (namespace, None):
        plural = "rolebindings" if scope else "clusterrolebindings"
        try:
            bindings, _ = connection.items(
                f"list {plural}", path_of(_RBAC, plural, namespace=scope)
            )
            for binding in bindings:
                if not _binds(binding, namespace, account):
                    continue
                if _reads_all(_rules(connection, binding["roleRef"], scope)):
                    name = binding["metadata"]["name"]
                    return SecretsFinding(True, f"{account} may read Secrets by {plural} {name}")
        except ClusterRefused:
            unread.append(plural)
    if unread:
        return SecretsFinding(None, f"not known: no right to read {' and '.join(unread)}")
    return SecretsFinding(False, f"{account} may read only Secrets that a role names")


def _binds(binding: Json, namespace: str, account: str) -> bool:
    groups = {"system:serviceaccounts", f"system:serviceaccounts:{namespace}"}
    groups.add("system:authenticated")
    for subject in binding.get("subjects") or []:
        name, kind = subject.get("name"), subject.get("kind")
        home = subject.get("namespace") or binding["metadata"].get("namespace")
        if kind == "ServiceAccount" and (name, home) == (account, namespace):
            return True
        if kind == "Group" and name in groups:
            return True
        if kind == "User" and name == f"system:serviceaccount:{namespace}:{account}":
            return True
    return False


def _rules(connection: Connection, reference: Json, namespace: str | None) -> Sequence[Json]:
    """Rules of a role; none if it does not exist, which lets nobody do anything."""
    is_local = reference["kind"] == "Role"
    plural, scope = ("roles", namespace) if is_local else ("clusterroles", None)
    path = path_of(_RBAC, plural, namespace=scope, name=reference["name"])
    role = connection.find(f"read role {reference['name']}", path)
    return (role or {}).get("rules") or []


def _reads_all(rules: Sequence[Json]) -> bool:
    return any(
        {"", "*"} & set(rule.get("apiGroups") or [])
        and {"secrets", "*"} & set(rule.get("resources") or [])
        and {*_READING, "*"} & set(rule.get("verbs") or [])
        and not rule.get("resourceNames")
        for rule in rules
    )
