"""Port-forwards over websockets of a server that we make misbehave."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import socket
import struct
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from crucible.cluster import forward as forward_module
from crucible.cluster import tunnel
from crucible.cluster.forward import find_target, forward
from crucible.cluster.tunnel import Target
from crucible.errors import ClusterUnavailable, ObjectNotFound, ObjectRejected
from crucible.testing.kube_api import KubeApi

SERVICES, PODS = "/api/v1/namespaces/runs/services", "/api/v1/namespaces/runs/pods"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def put_service(api: KubeApi, target: object = "web", **spec: object) -> None:
    ports = [{"name": "http", "port": 80, "targetPort": target}]
    body = {"selector": {"app": "web"}, "ports": ports, **spec}
    api.put(SERVICES, {"metadata": {"name": "web"}, "spec": body})


def put_pod(api: KubeApi, name: str, *, ready: bool = True, port_name: str = "web") -> None:
    ready_text = "True" if ready else "False"
    api.put(PODS, {
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "m", "ports": [
            {"name": port_name, "containerPort": 8080}]}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready_text}]},
    })  # fmt: skip


def test_a_ready_pod_is_found(api, connection) -> None:
    put_service(api)
    put_pod(api, "sick", ready=False)
    put_pod(api, "other", port_name="else")
    put_pod(api, "well")
    assert find_target(connection, "runs", "web", 80) == Target("runs", "well", 8080)
    put_service(api, target=9090)
    assert find_target(connection, "runs", "web", 80).port == 9090


def test_several_ready_pods_are_all_used(api, connection) -> None:
    put_service(api)
    for number in range(3):
        put_pod(api, f"p{number}")
    found = {find_target(connection, "runs", "web", 80).pod for _ in range(60)}
    assert found == {"p0", "p1", "p2"}


def test_nothing_to_forward_to(api, connection) -> None:
    with pytest.raises(ObjectNotFound, match="Service web"):
        find_target(connection, "runs", "web", 80)
    put_service(api)
    with pytest.raises(ClusterUnavailable, match="kubectl -n runs get pods -l app=web"):
        find_target(connection, "runs", "web", 80)
    with pytest.raises(ObjectNotFound, match=r"no port 81\. It has 80"):
        find_target(connection, "runs", "web", 81)
    put_service(api, selector=None)
    with pytest.raises(ObjectRejected, match="no selector"):
        find_target(connection, "runs", "web", 80)


@dataclass
class Wire:
    """The server's end of one websocket."""

    sock: socket.socket
    path: str

    def send(self, channel: int, data: bytes) -> None:
        payload = bytes([channel]) + data
        size = len(payload)
        length = bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size & 0xFFFF)
        if size >= 1 << 16:
            length = b"\x7f" + struct.pack(">Q", size)
        self.sock.sendall(b"\x82" + length + payload)

    def announce(self) -> None:
        for channel in (0, 1):
            self.send(channel, struct.pack("<H", 8080))

    def receive(self) -> bytes:
        """Data of the next frame; nothing at the end."""
        first, second = self._exactly(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self._exactly(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._exactly(8))
        mask, data = self._exactly(4), self._exactly(length)
        data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        return b"" if first & 0x0F == 8 else data[1:]

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.sock.recv(count - len(data))
            if not part:
                raise ConnectionError
            data += part
        return data


@dataclass
class WebsocketServer:
    """Accepts websockets and hands each to ``behave``."""

    behave: Callable[[Wire], None]
    refusal: bytes = b""
    paths: list[str] = field(default_factory=list)
    port: int = 0

    def serve(self, listener: socket.socket) -> None:
        self.port = listener.getsockname()[1]
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(sock,), daemon=True).start()

    def _one(self, sock: socket.socket) -> None:
        with contextlib.closing(sock), contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(4096)
            lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)
            lowered = {key.lower(): value for key, value in lines.items()}
            self.paths.append(head.split()[1].decode())
            if self.refusal:
                sock.sendall(self.refusal)
                return
            key = lowered["sec-websocket-key"].encode()
            accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
            assert lowered["authorization"] == "Bearer secret"
            sock.sendall(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {accept}\r\n"
                f"Sec-WebSocket-Protocol: {lowered['sec-websocket-protocol']}\r\n\r\n".encode()
            )
            self.behave(Wire(sock, self.paths[-1]))


def echo(wire: Wire) -> None:
    wire.announce()
    while data := wire.receive():
        wire.send(0, data)


@pytest.fixture
def web(api, connection, monkeypatch) -> Callable[..., object]:
    """Starts a websocket server and forwards to it; gives a function that connects.

    Websockets go to that server, and all other requests to `api` as usual.
    """
    put_service(api)
    put_pod(api, "p1")

    @contextlib.contextmanager
    def start(
        behave: Callable[[Wire], None] = echo, refusal: bytes = b""
    ) -> Iterator[Callable[[], socket.socket]]:
        server = WebsocketServer(behave, refusal)
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            address, connect = listener.getsockname(), socket.create_connection
            dialled = types.SimpleNamespace(**vars(socket))
            dialled.create_connection = lambda to, timeout: connect(address, timeout)
            monkeypatch.setattr(tunnel, "socket", dialled)
            threading.Thread(target=server.serve, args=(listener,), daemon=True).start()
            local = stack.enter_context(forward(connection, "runs", "web", 80))

            def dial() -> socket.socket:
                return stack.enter_context(connect((local.host, local.port), 10.0))

            dial.server = server  # type: ignore[attr-defined]
            yield dial

    return start


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while part := sock.recv(65536):
        data += part
    return data


def test_bytes_go_both_ways(web) -> None:
    with web() as dial:
        local = dial()
        for size in (1, 125, 126, 65535, 65536, 300_000):
            data = bytes(size)
            local.sendall(data)
            got = b""
            while len(got) < size:
                got += local.recv(65536)
            assert got == data
        assert dial.server.paths == ["/api/v1/namespaces/runs/pods/p1/portforward?ports=8080"]


def test_what_comes_after_our_last_byte_is_delivered(web) -> None:
    def answer_late(wire: Wire) -> None:
        wire.announce()
        wire.receive()
        time.sleep(0.5)
        wire.send(0, b"late")
        time.sleep(0.2)

    with web(answer_late) as dial:
        local = dial()
        local.sendall(b"question")
        local.shutdown(socket.SHUT_WR)
        assert read_all(local) == b"late"


def test_a_client_that_has_gone_is_not_waited_for_long(web, monkeypatch) -> None:
    monkeypatch.setattr(tunnel, "_LINGER_SECONDS", 0.5)
    ended = threading.Event()

    def silent(wire: Wire) -> None:
        wire.announce()
        with contextlib.suppress(ConnectionError):
            while wire.receive():
                pass
        ended.set()

    with web(silent) as dial:
        dial().close()
        assert ended.wait(5.0)


def test_the_other_side_ends_it(web) -> None:
    def say_and_go(wire: Wire) -> None:
        wire.announce()
        wire.send(0, b"bye")

    with web(say_and_go) as dial:
        assert read_all(dial()) == b"bye"


def test_an_error_of_the_pod_is_logged_and_ends_the_connection(web, caplog) -> None:
    def refuse(wire: Wire) -> None:
        wire.announce()
        wire.send(1, b"connection refused inside pod")
        time.sleep(5.0)

    with web(refuse) as dial, caplog.at_level(logging.WARNING):
        assert read_all(dial()) == b""
        assert "connection refused inside pod" in caplog.text


def test_a_pod_that_is_gone_is_left_for_another(api, web, monkeypatch) -> None:
    """The first try meets a pod that is just being removed."""
    gone = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with web(refusal=gone) as dial:
        local = dial()
        api.wait_for(lambda: dial.server.paths)
        api.remove(PODS, "p1")
        put_pod(api, "p2")
        dial.server.refusal = b""
        local.sendall(b"hello")
        assert local.recv(10) == b"hello"
        assert [path.split("/")[6] for path in dial.server.paths][-1] == "p2"


def test_no_right_to_forward(web, caplog) -> None:
    said = 'User "jane" cannot get resource "pods/portforward" in API group ""'
    body = json.dumps({"message": f'{said} in the namespace "runs"'}).encode()
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(body)
    with web(refusal=head + body) as dial, caplog.at_level(logging.WARNING):
        assert read_all(dial()) == b""
    assert "user 'jane' may not get pods/portforward in namespace runs" in caplog.text


def test_no_pod_is_ready_for_too_long(api, web, caplog, monkeypatch) -> None:
    monkeypatch.setattr(forward_module, "_REPLACED_SECONDS", 0.5)
    with web() as dial, caplog.at_level(logging.WARNING):
        api.remove(PODS, "p1")
        assert read_all(dial()) == b""
    assert "no pod is ready" in caplog.text


def test_the_end_of_the_block_ends_connections(web) -> None:
    with web() as dial:
        local = dial()
        local.sendall(b"x")
        assert local.recv(1) == b"x"
        thread_names = {thread.name for thread in threading.enumerate()}
        assert any("pod p1" in name for name in thread_names)
    deadline = time.monotonic() + 5.0
    while any("pod p1" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_many_connections_at_once(web) -> None:
    with web() as dial:
        opened = [dial() for _ in range(30)]
        for number, local in enumerate(opened):
            local.sendall(f"n{number:02d}".encode())
        assert [local.recv(3) for local in opened] == [f"n{n:02d}".encode() for n in range(30)]
