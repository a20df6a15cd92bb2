"""A Service of the cluster at an address of this machine, through the Kubernetes API.

Each connection to the local port goes to a pod that is ready behind the Service when the
connection is made, so that a pod which is replaced costs its own connections and no more. Needs the
rights of `kubectl port-forward`.
"""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from crucible.cluster.connection import Connection
from crucible.cluster.paths import path_of
from crucible.cluster.patience import HURRIED
from crucible.cluster.pods import pod_view
from crucible.cluster.tunnel import Target, Tunnel, open_tunnel
from crucible.cluster.wire import Json
from crucible.errors import ClusterUnavailable, CrucibleError, ObjectNotFound, ObjectRejected

logger = logging.getLogger(__name__)

_BACKLOG = 64
_REPLACED_SECONDS = 20.0
"""How long a connection waits for a ready pod."""


@dataclass(frozen=True)
class Forward:
    """A port of this machine that leads to a Service."""

    host: str
    port: int

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``."""
        return f"{self.host}:{self.port}"


@contextlib.contextmanager
def forward(connection: Connection, namespace: str, service: str, port: int) -> Iterator[Forward]:
    """Listen on a free port of 127.0.0.1 for as long as the block lasts.

    Args:
        connection: the cluster.
        namespace: of the Service.
        service: its name.
        port: of the Service, as its clients in the cluster would say it.

    Raises:
        ObjectNotFound: no such Service, or it has no such port.
        ClusterUnavailable: no pod is ready behind it.
        CrucibleError: else as `Connection.call`.
    """
    find_target(connection, namespace, service, port)  # to fail now, with a reason
    listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    server = _Server(connection, listener, (namespace, service, port))
    try:
        server.start()
        host, number = listener.getsockname()[:2]
        yield Forward(host, number)
    finally:
        server.stop()


def find_target(connection: Connection, namespace: str, service: str, port: int) -> Target:
    """A ready pod behind a port of a Service; errors as `forward`."""
    action = f"reach Service {service} in namespace {namespace}"
    path = path_of("v1", "services", namespace=namespace, name=service)
    spec = connection.get(action, path)["spec"]
    ports = spec.get("ports") or []
    entry = next((each for each in ports if each["port"] == port), None)
    if entry is None:
        there = ", ".join(str(each["port"]) for each in ports) or "none"
        raise ObjectNotFound(f"{action}: it has no port {port}. It has {there}.")
    if not spec.get("selector"):
        raise ObjectRejected(f"{action}: it has no selector, so no pod is known behind it.")
    selector = ",".join(f"{key}={value}" for key, value in spec["selector"].items())
    path = path_of("v1", "pods", namespace=namespace)
    items, _ = connection.items(action, path, {"labelSelector": selector})
    ready = ((item, _port_of(item, entry.get("targetPort", port))) for item in items
             if pod_view(item).is_ready)  # fmt: skip
    targets = [Target(namespace, item["metadata"]["name"], n) for item, n in ready if n is not None]
    if targets:
        return random.choice(targets)
    raise ClusterUnavailable(
        f"{action}: no pod is ready behind it. `kubectl -n {namespace} get pods -l {selector}` "
        "shows why."
    )


def _port_of(pod: Json, target: int | str) -> int | None:
    """The number of a Service's target port in this pod; None if it has none of that name."""
    if isinstance(target, int):
        return target
    ports = (port for each in pod["spec"]["containers"] for port in each.get("ports") or [])
    return next((int(port["containerPort"]) for port in ports if port.get("name") == target), None)


class _Server:
    """Accepts connections and gives each a pod and two threads."""

    def __init__(
        self, connection: Connection, listener: socket.socket, service: tuple[str, str, int]
    ) -> None:
        self._connection = connection
        self._listener = listener
        self._service = service
        self._lock = threading.Lock()
        self._open: set[Tunnel] = set()
        self._is_stopped = False

    def start(self) -> None:
        threading.Thread(target=self._accept, name="port-forward", daemon=True).start()

    def stop(self) -> None:
        """Refuse new connections and end all that are open."""
        with self._lock:
            self._is_stopped = True
            tunnels = list(self._open)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        self._listener.close()
        for tunnel in tunnels:
            tunnel.close()

    def _accept(self) -> None:
        while not self._is_stopped:
            try:
                local, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(
                target=self._serve, args=(local,), name="port-forward", daemon=True
            ).start()

    def _connect(self, local: socket.socket) -> Tunnel:
        """To a ready pod; while one is being replaced another try finds the next one.

        Raises:
            CrucibleError: none could be reached for a while.
        """
        deadline = time.monotonic() + _REPLACED_SECONDS
        hurried = self._connection.with_patience(HURRIED)
        while True:
            try:
                target = find_target(self._connection, *self._service)
                return open_tunnel(hurried, target, local)
            except (ClusterUnavailable, ObjectNotFound):
                if self._is_stopped or time.monotonic() > deadline:
                    raise
            time.sleep(1.0)

    def _serve(self, local: socket.socket) -> None:
        """One connection, to its end. One that cannot be made is closed, and the reason logged."""
        with contextlib.closing(local):
            try:
                tunnel = self._connect(local)
            except CrucibleError as error:
                logger.warning("%s", error)
                return
            except Exception:
                if not self._is_stopped:
                    logger.exception("port-forward to %s", self._service[1])
                return
            with self._lock:
                self._open.add(tunnel)
            try:
                if not self._is_stopped:
                    tunnel.run()
            finally:
                tunnel.close()
                with self._lock:
                    self._open.discard(tunnel)
