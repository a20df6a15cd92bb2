"""How this machine reaches what runs in a cluster: KFP's API, the artifact store, MLflow.

All are context managers: a port-forward lives as long as its block. Keys and tokens come from this
machine's environment or a file, else from the Secret that the context names; none is written down.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from crucible.cluster.connection import Connection
from crucible.cluster.forward import forward
from crucible.cluster.paths import path_of
from crucible.errors import ClusterRefused, ObjectNotFound, UserError
from crucible.specs.context import (
    ContextDocument,
    PortForwardAccessSpec,
    SecretKeySpec,
    ServiceSpec,
    TokenSpec,
    UrlAccessSpec,
)

Environ = Mapping[str, str]

_KEY, _SECRET, _SESSION = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"


def _no_token() -> str | None:
    return None


@dataclass(frozen=True)
class ServiceAccess:
    """An HTTP service and what its clients need to be let in."""

    host: str
    """Base URL, perhaps with a path."""
    token: Callable[[], str | None] = _no_token
    """Bearer token of the next request, read or renewed each time; None: none is needed.

    Raises UserError if it cannot be had."""
    ca_file: str | None = None
    """Certificates of the authority; None: those that everybody trusts."""
    cert: tuple[str, str] | None = None
    """Files of a client certificate and its key."""
    verify: bool = True
    """False only where the kubeconfig says insecure-skip-tls-verify."""


@contextlib.contextmanager
def kfp_access(
    context: ContextDocument, connection: Connection, environ: Environ | None = None
) -> Iterator[ServiceAccess]:
    """KFP's API as the context says it is reached.

    Raises:
        CrucibleError: as `crucible.cluster.forward.forward`, where a forward is needed.
    """
    api = context.pipelines.api
    env = os.environ if environ is None else environ
    if isinstance(api, UrlAccessSpec):
        ca_file = None if api.ca_file is None else str(Path(api.ca_file).expanduser())
        yield ServiceAccess(api.url.rstrip("/"), _token_reader(api.token, env), ca_file)
    elif isinstance(api, PortForwardAccessSpec):
        with forward(connection, api.namespace, api.service, api.port) as local:
            yield ServiceAccess(f"http://{local.address}")
    else:
        yield _proxied(connection, api.namespace, f"http:{api.service}:{api.port}")


@contextlib.contextmanager
def client_environ(
    context: ContextDocument, connection: Connection, environ: Environ | None = None
) -> Iterator[dict[str, str]]:
    """Environment variables under which this machine reaches the store and MLflow.

    Errors as `store_environ` and `mlflow_environ`.
    """
    with (
        store_environ(context, connection, environ) as of_store,
        mlflow_environ(context, connection, environ) as of_mlflow,
    ):
        yield of_store | of_mlflow


@contextlib.contextmanager
def store_environ(
    context: ContextDocument, connection: Connection, environ: Environ | None = None
) -> Iterator[dict[str, str]]:
    """``CRUCIBLE_STORE``, ``CRUCIBLE_S3_ENDPOINT`` and ``AWS_*``.

    Raises:
        UserError: the store's Secret lacks a key.
        ClusterRefused: this user may not read it.
        CrucibleError: as `crucible.cluster.forward.forward`, where a forward is needed.
    """
    store, env = context.store, os.environ if environ is None else environ
    found = {"CRUCIBLE_STORE": store.uri, "AWS_REGION": store.region}
    if env.get(_KEY) and env.get(_SECRET):
        found |= {name: env[name] for name in (_KEY, _SECRET, _SESSION) if env.get(name)}
    elif store.secret is not None:
        hint = f"Or set {_KEY} and {_SECRET} on this machine."
        found |= {
            name: read_secret(connection, SecretKeySpec(name=store.secret, key=name), hint=hint)
            for name in (_KEY, _SECRET)
        }
    with _reached(connection, store.client_endpoint, store.forward, store.endpoint) as endpoint:
        if endpoint is not None:
            found["CRUCIBLE_S3_ENDPOINT"] = endpoint
        yield found


@contextlib.contextmanager
def mlflow_environ(
    context: ContextDocument, connection: Connection, environ: Environ | None = None
) -> Iterator[dict[str, str]]:
    """``MLFLOW_TRACKING_URI`` and, where one is needed, ``MLFLOW_TRACKING_TOKEN``.

    Nothing where the context has no MLflow. Errors as `store_environ`.
    """
    mlflow, env = context.mlflow, os.environ if environ is None else environ
    if mlflow is None:
        yield {}
        return
    found = {}
    if mlflow.token_secret is not None:
        name = "MLFLOW_TRACKING_TOKEN"
        hint = f"Or set {name} on this machine."
        found[name] = env.get(name) or read_secret(connection, mlflow.token_secret, hint=hint)
    with _reached(connection, mlflow.client_uri, mlflow.forward, mlflow.uri) as uri:
        yield {"MLFLOW_TRACKING_URI": str(uri), **found}


def read_secret(connection: Connection, key: SecretKeySpec, *, hint: str = "") -> str:
    """One key of a Secret in the run namespace.

    Args:
        connection: the cluster.
        key: names Secret and key.
        hint: what else the user can do, for messages.

    Raises:
        UserError: there is no such Secret, or it has no such key.
        ClusterRefused: this user may not read it.
    """
    namespace = connection.namespace
    action = f"read Secret {key.name} in namespace {namespace}"
    path = path_of("v1", "secrets", namespace=namespace, name=key.name)
    try:
        data = connection.get(action, path).get("data") or {}
    except ObjectNotFound as error:
        raise UserError(f"{action}: there is none. Create it. {hint}".rstrip()) from error
    except ClusterRefused as error:
        raise ClusterRefused(f"{error.message} {hint}".rstrip()) from error
    try:
        return base64.b64decode(data[key.key], validate=True).decode()
    except (KeyError, binascii.Error, UnicodeDecodeError) as error:
        there = ", ".join(sorted(data)) or "none"
        message = f"{action}: it has no text under the key {key.key!r}. It has {there}. {hint}"
        raise UserError(message.rstrip()) from error


@contextlib.contextmanager
def _reached(
    connection: Connection,
    client_url: str | None,
    service: ServiceSpec | None,
    pods_url: str | None,
) -> Iterator[str | None]:
    """The address to use here: the one given for here, a port-forward, or that of the pods."""
    if client_url is not None or service is None:
        yield client_url or pods_url
        return
    with forward(connection, service.namespace, service.service, service.port) as local:
        parts = urlsplit(pods_url or "")
        yield urlunsplit(("http", local.address, parts.path, parts.query, ""))


def _proxied(connection: Connection, namespace: str, service: str) -> ServiceAccess:
    """A Service behind the API server's proxy, with the credentials of the kubeconfig."""
    configuration = connection.identity.configuration

    def token() -> str | None:
        held = connection.identity.configuration.get_api_key_with_prefix("authorization")
        return None if held is None else str(held).partition(" ")[2]

    path = path_of("v1", "services", namespace=namespace, name=service, part="proxy")
    cert = configuration.cert_file, configuration.key_file
    return ServiceAccess(
        host=connection.server.rstrip("/") + path,
        token=token,
        ca_file=configuration.ssl_ca_cert,
        cert=(str(cert[0]), str(cert[1])) if all(cert) else None,
        verify=bool(configuration.verify_ssl),
    )


def _token_reader(spec: TokenSpec | None, environ: Environ) -> Callable[[], str | None]:
    if spec is None:
        return _no_token

    def read() -> str:
        if spec.env is not None:
            text, where = environ.get(spec.env, ""), f"the variable {spec.env}"
        else:
            path = Path(spec.file or "").expanduser()
            try:
                text, where = path.read_text(), f"the file {path}"
            except OSError as error:
                raise UserError(f"pipelines.api.token: {path}: {error.strerror}.") from error
        if not text.strip():
            raise UserError(f"pipelines.api.token: {where} is empty. Put KFP's bearer token there.")
        return text.strip()

    return read
