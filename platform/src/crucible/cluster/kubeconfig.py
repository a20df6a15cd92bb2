"""Who we are and where the API server is: kubeconfig files, or the service account of a pod.

As kubectl finds it: the file that is named, else ``KUBECONFIG`` (several files, the first to say
something wins), else ``~/.kube/config``, else the pod's own account. The library does the rest:
tokens, certificates, login programs, refreshing. What it only logs, we raise.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from crucible.errors import UserError
from crucible.sdk.suggestion import did_you_mean
from crucible.specs.context import KubernetesSpec

if TYPE_CHECKING:
    import kubernetes.client
    from kubernetes.config.kube_config import KubeConfigMerger

IN_CLUSTER = "KUBERNETES_SERVICE_HOST"
"""Set in every pod."""
_NO_KUBECONFIG = (
    "no cluster to talk to: kubernetes.kubeconfig of the context and KUBECONFIG are not set, there "
    "is no {default}, and this is no pod. Give the path of a kubeconfig in one of them."
)


@dataclass(frozen=True)
class Identity:
    """Address and credentials; `kubernetes.client.Configuration` renews what can be renewed."""

    configuration: kubernetes.client.Configuration
    server: str
    user: str
    """Name in the kubeconfig; the server may know the user by another one."""
    origin: str
    """Where it comes from, for messages."""


def load_identity(spec: KubernetesSpec, environ: Mapping[str, str] | None = None) -> Identity:
    """Read the kubeconfig that ``spec`` means, or the service account of this pod.

    Raises:
        UserError: there is none, it cannot be read, it lacks what it refers to, or its login
            program failed.
    """
    env = os.environ if environ is None else environ
    default = Path(env.get("HOME") or "~").expanduser() / ".kube" / "config"
    if spec.kubeconfig is not None:
        return _from_files([Path(spec.kubeconfig).expanduser()], spec.context, env)
    if named := [part for part in env.get("KUBECONFIG", "").split(os.pathsep) if part]:
        return _from_files([Path(part).expanduser() for part in named], spec.context, env)
    if default.is_file():
        return _from_files([default], spec.context, env)
    if env.get(IN_CLUSTER):
        return _from_pod()
    raise UserError(_NO_KUBECONFIG.format(default=default))


def _from_files(paths: list[Path], context: str | None, environ: Mapping[str, str]) -> Identity:
    from kubernetes.client import Configuration
    from kubernetes.config.kube_config import KubeConfigLoader

    origin = os.pathsep.join(map(str, paths))
    merger = _read(paths, origin)
    documents = list(merger.config_files.values())
    name = _context_name(documents, context, origin)
    entry = _named(documents, "contexts", name).get("context") or {}
    user = str(entry.get("user", ""))
    configuration = Configuration()
    with _said() as said, _typed(origin):
        loader = KubeConfigLoader(
            merger.config,
            active_context=name,
            config_base_path=None,
            config_persister=merger.save_changes,
        )
        loader.load_and_set(configuration)
    _check_credentials(configuration, _named(documents, "users", user).get("user"), user, said)
    cluster = _named(documents, "clusters", str(entry.get("cluster", ""))).get("cluster") or {}
    _set_transport(configuration, cluster.get("proxy-url"), environ)
    return Identity(configuration, configuration.host, user, f"context {name!r} of {origin}")


def _read(paths: list[Path], origin: str) -> KubeConfigMerger:
    from kubernetes.config.kube_config import KubeConfigMerger

    if not any(path.is_file() for path in paths):
        raise UserError(f"kubeconfig {origin}: there is no such file. Give the path of one.")
    with _typed(origin):
        merger = KubeConfigMerger(os.pathsep.join(map(str, paths)))
    if merger.config is None:
        raise UserError(f"kubeconfig {origin}: is empty.")
    return merger


def _context_name(documents: list[dict[str, Any]], wanted: str | None, origin: str) -> str:
    names = [str(e.get("name")) for d in documents for e in d.get("contexts") or []]
    if wanted is None:
        current = (str(d["current-context"]) for d in documents if d.get("current-context"))
        wanted = next(current, None)
    if wanted is None:
        fix = did_you_mean("", names)
        raise UserError(
            f"kubeconfig {origin}: has no current context. Set kubernetes.context. {fix}"
        )
    if wanted not in names:
        fix = did_you_mean(wanted, names)
        raise UserError(f"kubeconfig {origin}: there is no context {wanted!r} in it. {fix}")
    return wanted


def _named(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    entries = (entry for document in documents for entry in document.get(kind) or [])
    return next((entry for entry in entries if entry.get("name") == name), {})


def _check_credentials(
    configuration: kubernetes.client.Configuration,
    user: dict[str, Any] | None,
    name: str,
    said: list[str],
) -> None:
    """The library goes on without credentials when a login program or a refresh failed."""
    if not user or configuration.api_key or configuration.cert_file:
        return
    if "exec" in user:
        program = user["exec"].get("command")
        reason = "; ".join(said) or "it gave neither a token nor a certificate"
        raise UserError(
            f"kubeconfig user {name!r}: its login program {program!r} failed: {reason}. "
            "Install it or log in again."
        )
    raise UserError(f"kubeconfig user {name!r}: has no usable credentials. Log in again.")


def _set_transport(
    configuration: kubernetes.client.Configuration,
    proxy_url: str | None,
    environ: Mapping[str, str],
) -> None:
    """Proxies as kubectl has them, which the library reads nowhere; and no retries but ours."""
    configuration.retries = False
    host = urlsplit(configuration.host)
    if host.hostname in ("localhost", "127.0.0.1", "::1"):
        return
    configuration.proxy = proxy_url or _variable(environ, f"{host.scheme}_proxy")
    if not proxy_url:
        configuration.no_proxy = _variable(environ, "no_proxy")


def _variable(environ: Mapping[str, str], name: str) -> str | None:
    return environ.get(name) or environ.get(name.upper()) or None


def _from_pod() -> Identity:
    from kubernetes.client import Configuration
    from kubernetes.config import load_incluster_config

    configuration = Configuration()
    with _typed("of this pod's service account"):
        load_incluster_config(configuration)
    configuration.retries = False
    account = "the service account of this pod"
    return Identity(configuration, configuration.host, account, account)


@contextlib.contextmanager
def _typed(origin: str) -> Iterator[None]:
    """What the library and the YAML parser raise about a bad file, as the user's to mend."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"kubeconfig {origin}: cannot be used: {said}") from error


@contextlib.contextmanager
def _said() -> Iterator[list[str]]:
    """Collect what the library logs as errors and would print beside our own message."""
    said: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    root, collector = logging.getLogger(), Collector(logging.ERROR)
    root.addHandler(collector)
    try:
        yield said
    finally:
        root.removeHandler(collector)
