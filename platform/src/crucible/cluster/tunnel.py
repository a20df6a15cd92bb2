"""`Tunnel`: one connection to a port of a pod, through a websocket of the Kubernetes API.

The library's own forward (`kubernetes.stream.portforward`, version 30) connects without a time-out,
drops what is under way when one side closes, dies in a thread of its own when the connection breaks
and cannot handle descriptors above 1024. So both are ours; a thread pumps each direction.

The protocol, ``v4.channel.k8s.io``: binary frames whose first byte is the channel, 0 for data and 1
for an error text; the first frame of each channel names the port. It knows no half-closed
connections: after the local side has sent its last, what comes back is delivered until it stops.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import logging
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from crucible.cluster.connection import Connection
from crucible.cluster.paths import path_of

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

logger = logging.getLogger(__name__)

_DATA, _ERROR = 0, 1
_READ_BYTES = 1 << 16
_LINGER_SECONDS = 5.0
"""After the local side has sent its last: how long the other may be silent. A client that has gone
looks the same as one that waits for an answer."""
_CONNECT_SECONDS = 10.0
_PROTOCOL = "v4.channel.k8s.io"
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""Finds within a minute that the other side has gone without a word; where the system has it."""


@dataclass(frozen=True)
class Target:
    """A port of a pod."""

    namespace: str
    pod: str
    port: int

    def __str__(self) -> str:
        return f"port {self.port} of pod {self.pod}"


def open_tunnel(connection: Connection, target: Target, local: socket.socket) -> Tunnel:
    """Connect ``local`` to a pod; errors as `Connection.call`. `Tunnel.run` moves the bytes."""
    path = path_of("v1", "pods", namespace=target.namespace, name=target.pod, part="portforward")
    action = f"forward to {target}"

    def dial(client: ApiClient) -> Any:
        return _websocket(client, f"{path}?ports={target.port}")

    return Tunnel(connection.call(action, dial), local, target)


class Tunnel:
    """Moves bytes between a local socket and a pod until either side ends."""

    def __init__(self, remote: Any, local: socket.socket, target: Target) -> None:
        """``remote`` is an open websocket."""
        self._remote = remote
        self._local = local
        self._target = target
        self._is_closed = threading.Event()
        self._heard_at = 0.0

    def run(self) -> None:
        """Return when the connection has ended; what breaks it is logged."""
        sender = threading.Thread(target=self._send, name=f"to {self._target}", daemon=True)
        sender.start()
        self._receive()
        self.close()
        sender.join()

    def close(self) -> None:
        """End both sides; another thread may call this."""
        self._is_closed.set()
        for end in (self._local, self._remote.sock):
            with contextlib.suppress(OSError, AttributeError):
                end.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads
        with contextlib.suppress(Exception):
            self._remote.shutdown()

    def _send(self) -> None:
        """From here to the pod."""
        import websocket

        with contextlib.suppress(OSError, websocket.WebSocketException):
            while data := self._local.recv(_READ_BYTES):
                self._remote.send_binary(bytes([_DATA]) + data)
        ended_at = time.monotonic()
        while not self._is_closed.wait(0.5):
            if time.monotonic() - max(ended_at, self._heard_at) > _LINGER_SECONDS:
                self.close()

    def _receive(self) -> None:
        """From the pod to here."""
        import websocket

        opened: set[int] = set()
        try:
            while True:
                opcode, data = self._remote.recv_data()
                if opcode == websocket.ABNF.OPCODE_CLOSE or not data:
                    return
                channel = data[0]
                if channel not in opened:  # the number of the port, which we know
                    opened.add(channel)
                elif channel == _ERROR:
                    logger.warning("%s: %s", self._target, data[1:].decode(errors="replace"))
                    return
                elif channel == _DATA:
                    self._local.sendall(data[1:])
                    self._heard_at = time.monotonic()
        except (OSError, websocket.WebSocketException) as error:
            if not self._is_closed.is_set():
                logger.info("%s: the connection ended: %s", self._target, error)


def _websocket(client: ApiClient, path: str) -> Any:
    """An open websocket to the API server, with the client's credentials.

    Raises:
        Exception: whatever `crucible.cluster.faults` gives a meaning.
    """
    import websocket

    configuration = client.configuration
    token = configuration.get_api_key_with_prefix("authorization")
    carrier = _dial(configuration)
    remote: Any = websocket.WebSocket(skip_utf8_validation=True)
    try:
        remote.connect(
            configuration.host.rstrip("/").replace("http", "ws", 1) + path,
            socket=carrier,
            header=[f"Authorization: {token}"] if token else [],
            subprotocols=[_PROTOCOL],
            suppress_origin=True,
        )
    except BaseException:
        carrier.close()
        raise
    carrier.settimeout(None)
    return remote


def _dial(configuration: Any) -> socket.socket:
    """A connection to the API server, through the proxy and with the certificates it takes.

    Left to itself the websocket library would use the environment's proxy, for loopback too.
    """
    server = urlsplit(configuration.host)
    host, is_secure = str(server.hostname), server.scheme == "https"
    address = host, server.port or (443 if is_secure else 80)
    proxy = urlsplit(_proxy_for(configuration) or "")
    if proxy.hostname:
        tunnel = http.client.HTTPConnection(
            proxy.hostname, proxy.port or 80, timeout=_CONNECT_SECONDS
        )
        tunnel.set_tunnel(*address, headers=_proxy_headers(proxy.username, proxy.password))
        tunnel.connect()
        carrier: socket.socket = tunnel.sock
    else:
        carrier = socket.create_connection(address, timeout=_CONNECT_SECONDS)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            carrier.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    carrier.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if not is_secure:
        return carrier
    try:
        name = configuration.tls_server_name or host
        return _trust(configuration).wrap_socket(carrier, server_hostname=name)
    except BaseException:
        carrier.close()
        raise


def _proxy_for(configuration: Any) -> str | None:
    from requests.utils import should_bypass_proxies  # as the library itself decides

    if not configuration.proxy:
        return None
    bypass = should_bypass_proxies(configuration.host, no_proxy=configuration.no_proxy or "")
    return None if bypass else str(configuration.proxy)


def _proxy_headers(user: str | None, password: str | None) -> dict[str, str]:
    if not user:
        return {}
    pair = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
    return {"Proxy-Authorization": f"Basic {pair}"}


def _trust(configuration: Any) -> ssl.SSLContext:
    import certifi

    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or certifi.where())
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context
