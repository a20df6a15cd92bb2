"""Checks of what runs need: KFP and its Argo, the artifact store, MLflow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from crucible.cluster.access import ServiceAccess, kfp_access, mlflow_environ, store_environ
from crucible.cluster.finding import Finding, Site, unread
from crucible.cluster.paths import path_of
from crucible.errors import ClusterError, ClusterRefused, ClusterUnavailable, ObjectNotFound
from crucible.specs.context import UrlAccessSpec

_TIMEOUT_SECONDS = 10.0
_RETRIES = 2
_CONTROLLER = "workflow-controller"
_CONFIG = "workflow-controller-configmap"
_REQUEUE = "DEFAULT_REQUEUE_TIME"
_ARGO_FIX = "apply the component manifests/third-party/argo"


def kfp(site: Site) -> Iterator[Finding]:
    """KFP answers on the way that the context says."""
    with kfp_access(site.context, site.connection, site.environ) as access:
        found = _get_json(access, "/apis/v2beta1/healthz")
    way = site.context.pipelines.api.access
    version = found.get("tag_name") or found.get("commit_sha") or "of unknown version"
    users = "multi-user" if found.get("multi_user") else "single-user"
    yield Finding("kfp", True, f"{version}, {users}, by {way}")


def argo(site: Site) -> Iterator[Finding]:
    """Argo's settings that decide how long a step waits and whether a lost pod comes back."""
    namespace = _kfp_namespace(site)
    yield _requeue_time(site, namespace)
    yield _retry_default(site, namespace)


def store(site: Site) -> Iterator[Finding]:
    """The store takes, gives and removes an object."""
    from crucible.artifacts.s3_backend import S3Backend
    from crucible.artifacts.s3_client import Patience
    from crucible.artifacts.store import Store

    uri = urlsplit(site.context.store.uri)
    with store_environ(site.context, site.connection, site.environ) as found:
        environ = {**site.environ, **found}
        hurried = Patience(retries=_RETRIES, connect_seconds=3.0, read_seconds=_TIMEOUT_SECONDS)
        prefix = uri.path.strip("/")
        backend = S3Backend.connect(uri.netloc, prefix, environ=environ, patience=hurried)
        Store(backend).check()
    yield Finding("store", True, site.context.store.uri)


def mlflow(site: Site) -> Iterator[Finding]:
    """MLflow answers."""
    if site.context.mlflow is None:
        yield Finding("mlflow", True, "none: runs are not tracked and nothing can be released")
        return
    with mlflow_environ(site.context, site.connection, site.environ) as found:
        token = found.get("MLFLOW_TRACKING_TOKEN") or site.environ.get("MLFLOW_TRACKING_TOKEN")
        access = ServiceAccess(found["MLFLOW_TRACKING_URI"].rstrip("/"), lambda: token)
        version = _get(access, "/version").strip()
    if re.match(r"\d+\.\d+", version) is None:
        page = f"{_without_user(access.host)}/version"
        raise ClusterError(f"{page}: answers no version, perhaps a login page. Check the address.")
    yield Finding("mlflow", True, f"{version} at {_without_user(site.context.mlflow.uri)}")


def _kfp_namespace(site: Site) -> str:
    api = site.context.pipelines.api
    return "kubeflow" if isinstance(api, UrlAccessSpec) else api.namespace


def _requeue_time(site: Site, namespace: str) -> Finding:
    path = path_of("apps/v1", "deployments", namespace=namespace, name=_CONTROLLER)
    name = "argo requeue time"
    try:
        deployment = site.connection.get("read Argo's Deployment", path)
    except ClusterRefused:
        return unread(name, f"Deployment {_CONTROLLER}", f"needs {_REQUEUE}=1s; {_ARGO_FIX}")
    except ObjectNotFound:
        return _no_argo(name, "Deployment", _CONTROLLER, namespace)
    containers = deployment["spec"]["template"]["spec"]["containers"]
    variables = (entry for each in containers for entry in each.get("env") or [])
    set_to = next((entry.get("value") for entry in variables if entry["name"] == _REQUEUE), None)
    if set_to is None:
        detail = "10 s, the default: each step waits up to that long for nothing, several times"
        return Finding(name, True, detail, f"set {_REQUEUE}=1s: {_ARGO_FIX}")
    return Finding(name, True, str(set_to))


def _retry_default(site: Site, namespace: str) -> Finding:
    import yaml

    path = path_of("v1", "configmaps", namespace=namespace, name=_CONFIG)
    name = "argo retries"
    try:
        data = site.connection.get("read Argo's settings", path).get("data") or {}
    except ClusterRefused:
        fix = f"its templateDefaults.retryStrategy must say Always, with limit 0; {_ARGO_FIX}"
        return unread(name, f"ConfigMap {_CONFIG}", fix)
    except ObjectNotFound:
        return _no_argo(name, "ConfigMap", _CONFIG, namespace)
    try:
        defaults = yaml.safe_load(data.get("workflowDefaults") or "") or {}
        strategy = _below(defaults, "spec", "templateDefaults", "retryStrategy")
    except yaml.YAMLError:
        return Finding(name, False, f"workflowDefaults of {_CONFIG} is no YAML", "mend it")
    if strategy is None:
        detail = "a pod that fails is started again, one that is deleted (a drained node) is not"
    elif strategy.get("retryPolicy") == "Always":
        limit = str(strategy.get("limit"))
        if limit == "0":
            return Finding(name, True, "a lost pod is started again as often as its step asks for")
        detail = f"pods that ask for no retry, as the drivers', are started again {limit} times"
    else:
        detail = (
            f"workflowDefaults overrule steps with {json.dumps(strategy)}: a lost pod stays lost"
        )
    fix = 'set templateDefaults.retryStrategy to {limit: "0", retryPolicy: Always}'
    return Finding(name, True, detail, f"{fix}: {_ARGO_FIX}")


def _no_argo(name: str, kind: str, object_: str, namespace: str) -> Finding:
    detail = f"there is no {kind} {object_} in namespace {namespace}"
    return Finding(name, True, detail, "set pipelines.api.namespace to KFP's namespace")


def _below(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _get_json(access: ServiceAccess, path: str) -> dict[str, Any]:
    text = _get(access, path)
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        page = f"{_without_user(access.host)}{path}"
        raise ClusterError(
            f"{page}: answers no JSON, perhaps a login page. Check address and token."
        )
    return found


def _get(access: ServiceAccess, path: str) -> str:
    """One page.

    Raises:
        ClusterUnavailable: no answer.
        ClusterError: an answer that is an error.
    """
    import certifi
    import urllib3

    url, token = f"{access.host}{path}", access.token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    cert, key = access.cert or (None, None)
    pool = urllib3.PoolManager(
        cert_reqs="CERT_REQUIRED" if access.verify else "CERT_NONE",
        ca_certs=access.ca_file or certifi.where(),
        cert_file=cert,
        key_file=key,
    )
    page = f"{_without_user(access.host)}{path}"
    try:
        with pool:
            answer = pool.request(
                "GET",
                url,
                headers=headers,
                timeout=_TIMEOUT_SECONDS,
                retries=_RETRIES,
                redirect=False,
            )
    except urllib3.exceptions.HTTPError as error:
        raise ClusterUnavailable(f"{page} does not answer: {error}.") from error
    text = answer.data.decode(errors="replace")
    if answer.status in (401, 403):
        fix = "Check the token, and the rights of its user."
        raise ClusterRefused(f"{page} answers {answer.status}: {text[:200]}. {fix}")
    if answer.status != 200:
        raise ClusterError(f"{page} answers {answer.status}: {text[:200]}.")
    return text


def _without_user(url: str) -> str:
    """``url`` without a name and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
