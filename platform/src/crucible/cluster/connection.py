"""`connect`: one client of one Kubernetes API, whose failures are typed and tried again.

Every request goes through `Connection.call`. What may be gone on the next try is tried again with
backoff and jitter until a budget of seconds is spent; a server's Retry-After is honoured; expired
credentials are read anew once. A request that must not happen twice is repeated only if the server
cannot have acted on it, or, for a create, if the object tells that it is ours.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from crucible.cluster.faults import Request, fault_of
from crucible.cluster.kubeconfig import Identity, load_identity
from crucible.cluster.patience import Patience, Trials
from crucible.cluster.wire import Json, Query, read_json, send
from crucible.errors import (
    ClusterUnavailable,
    CrucibleError,
    ObjectConflict,
    ObjectNotFound,
    VersionGone,
)
from crucible.specs.context import KubernetesSpec

if TYPE_CHECKING:
    import urllib3
    from kubernetes.client import ApiClient

T = TypeVar("T")

CREATION = "crucible.dev/creation"
"""Annotation by which a create whose answer was lost knows its own object."""
_PAGE_ITEMS = 500
_LIST_TRIES = 3


def connect(spec: KubernetesSpec, *, patience: Patience | None = None) -> Connection:
    """A connection that reads the kubeconfig on its first request, and not before."""
    return Connection(lambda: load_identity(spec), spec.namespace, patience or Patience())


class Connection:
    """One cluster as one user. Threads may share it."""

    def __init__(
        self, identify: Callable[[], Identity], namespace: str, patience: Patience
    ) -> None:
        """See `connect`; ``identify`` reads address and credentials, again when they expired."""
        self.namespace = namespace
        self.patience = patience
        self._client = _Client(identify)

    def with_patience(self, patience: Patience) -> Connection:
        """The same connection with another patience."""
        other = Connection(self._client.identify, self.namespace, patience)
        other._client = self._client
        return other

    @property
    def identity(self) -> Identity:
        """Address and credentials in use; UserError if there are none."""
        return self._client.get()[0]

    @property
    def server(self) -> str:
        """Address of the API server; UserError if nothing names one."""
        return self.identity.server

    def close(self) -> None:
        """Let go of idle sockets. The connection may be used again."""
        self._client.close()

    def call(self, action: str, request: Callable[[ApiClient], T], *, repeat: bool = True) -> T:
        """Do ``request``, again if need be, and type what goes wrong.

        Args:
            action: what is done, for messages, e.g. ``list pods of run 12``.
            request: one request through the library.
            repeat: False: it must not happen twice. It is then tried again only after failures in
                which the server cannot have acted on it.

        Raises:
            UserError: no usable kubeconfig, credentials not accepted, or an untrusted server.
            ClusterUnavailable: no good answer within the budget of `patience`.
            ClusterError: its kinds, as the server answered.
        """
        trials = Trials(self.patience, action)
        while True:
            identity, client = self._client.get()
            try:
                return request(client)
            except CrucibleError:
                raise
            except Exception as error:
                fault = fault_of(error, Request(action, identity.server, identity.user))
                if fault is None:
                    raise
                if fault.is_expired and trials.may_renew():
                    self._client.renew(client)
                elif fault.is_temporary and (repeat or fault.surely_not_done):
                    trials.wait(fault.error, fault.wait_seconds, error)
                else:
                    raise fault.error from error

    def open(
        self,
        action: str,
        path: str,
        query: Query | None = None,
        *,
        read_seconds: float | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """A GET whose body the caller reads and closes. Errors as in `call`.

        ``read_seconds`` may pass before the first byte and between two; None: as in `patience`.
        """
        timeouts = (self.patience.connect_seconds, read_seconds or self.patience.read_seconds)
        return self.call(action, lambda c: send(c, "GET", path, query=query, timeouts=timeouts))

    def get(self, action: str, path: str, query: Query | None = None) -> Json:
        """One object, or one page of a list. Errors as in `call`."""
        return self.request(action, "GET", path, query=query)

    def items(self, action: str, path: str, query: Query | None = None) -> tuple[list[Json], str]:
        """All items of a list, page by page, and its resource version. Errors as in `call`."""
        for _ in range(_LIST_TRIES):
            try:
                return self._pages(action, path, dict(query or {}))
            except VersionGone:  # the next page is of a version that is no longer kept
                continue
        raise ClusterUnavailable(f"{action}: the list changes faster than it can be read.")

    def create(self, action: str, path: str, body: Json) -> Json:
        """Create an object that has a name, once. Errors as in `call`.

        Raises:
            ObjectConflict: an object of that name was there before.
        """
        name, mark = str(body["metadata"]["name"]), secrets.token_hex(8)
        annotations = {**body["metadata"].get("annotations", {}), CREATION: mark}
        body = {**body, "metadata": {**body["metadata"], "annotations": annotations}}
        try:
            return self.request(action, "POST", path, body=body)
        except ObjectConflict:
            # Perhaps our own: the answer to an earlier try got lost on its way.
            found = self.find(action, f"{path}/{name}")
            if found is None or (found["metadata"].get("annotations") or {}).get(CREATION) != mark:
                raise
            return found

    def find(self, action: str, path: str) -> Json | None:
        """One object, or None where there is none. Other errors as in `call`."""
        try:
            return self.get(action, path)
        except ObjectNotFound:
            return None

    def delete(self, action: str, path: str, *, uid: str | None = None) -> bool:
        """Delete an object and, in the background, what it owns; False if it was not there.

        With ``uid`` only that object is deleted, not a later one of the same name.
        """
        preconditions = {"preconditions": {"uid": uid}} if uid else {}
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        try:
            self.request(action, "DELETE", path, body={**body, **preconditions})
        except ObjectNotFound:
            return False
        except ObjectConflict:
            if uid is None:
                raise
            return False
        return True

    def request(
        self,
        action: str,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Json:
        """A request that may happen twice without harm; its answer. Errors as in `call`."""
        timeouts = (self.patience.connect_seconds, self.patience.read_seconds)

        def once(client: ApiClient) -> Json:
            return read_json(send(client, method, path, query=query, body=body, timeouts=timeouts))

        return self.call(action, once)

    def _pages(self, action: str, path: str, query: dict[str, Any]) -> tuple[list[Json], str]:
        items: list[Json] = []
        query["limit"] = _PAGE_ITEMS
        while True:
            page = self.get(action, path, query)
            items += page.get("items") or []
            query["continue"] = page["metadata"].get("continue") or None
            if query["continue"] is None:
                return items, str(page["metadata"].get("resourceVersion", ""))


class _Client:
    """The library's client, made when it is needed and made anew when its credentials expire."""

    def __init__(self, identify: Callable[[], Identity]) -> None:
        self.identify = identify
        self._lock = threading.Lock()
        self._made: tuple[Identity, ApiClient] | None = None

    def get(self) -> tuple[Identity, ApiClient]:
        with self._lock:
            if self._made is None:
                identity = self.identify()
                self._made = identity, _api_client(identity)
            return self._made

    def renew(self, refused: ApiClient) -> None:
        """Forget ``refused``, unless another thread has done so."""
        with self._lock:
            if self._made is not None and self._made[1] is refused:
                self._made = None

    def close(self) -> None:
        with self._lock:
            if self._made is not None:
                self._made[1].rest_client.pool_manager.clear()
                self._made[1].close()
                self._made = None


def _api_client(identity: Identity) -> ApiClient:
    from kubernetes.client import ApiClient

    from crucible import __version__

    client = ApiClient(identity.configuration)
    client.user_agent = f"platformctl/{__version__}"
    return client
