"""A stand-in for the Kubernetes API: objects, watches and logs from memory, and faults on request.

It speaks HTTP on loopback, with TLS if it is given a certificate, so that clients are tested with
their own sockets. What it cannot do, a real API server is tested for (tests/cluster).
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

Json = dict[str, Any]
FaultKind = Literal["answer", "lose-request", "lose-answer", "stall"]


@dataclass(frozen=True)
class Place:
    """What a path stands for."""

    kind: str
    """``v1/pods``, ``apps/v1/deployments``."""
    namespace: str | None
    name: str | None = None
    part: str | None = None

    @classmethod
    def of(cls, path: str) -> Place:
        """Read ``/api/v1/...`` or ``/apis/GROUP/VERSION/...``."""
        prefix, *rest = path.strip("/").split("/")
        depth = 1 if prefix == "api" else 2
        version, rest = "/".join(rest[:depth]), rest[depth:]
        namespace = None
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        plural, name, part = [*rest, None, None, None][:3]
        return cls(f"{version}/{plural}", namespace, name, part)


@dataclass
class Fault:
    """What goes wrong with the next requests that match."""

    path: str = ""
    """A regular expression, looked for in path and query."""
    method: str = ""
    """Any if empty."""
    kind: FaultKind = "answer"
    """``answer`` with ``status``; reset the connection before or after acting; or say nothing."""
    status: int = 503
    message: str = "on purpose"
    reason: str = ""
    details: Json = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    """How long a stall lasts."""
    times: int = 1


@dataclass(frozen=True)
class Request:
    """A request that came in."""

    method: str
    path: str
    query: Mapping[str, str]
    token: str
    at: float
    body: Json | None = None

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") == "true"


@dataclass
class Log:
    """What a container has written: whole lines with their times, and whether it may write more."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    """RFC 3339 with nanoseconds, and text."""
    unended: str = ""
    """A last line without an end."""
    has_ended: bool = False


@dataclass
class Event:
    """A change of an object."""

    version: int
    type: str
    place: Place
    item: Json


@dataclass
class KubeApi:
    """A running server. Change its objects with `put` and `remove` only."""

    url: str = ""
    token: str | None = None
    """The only bearer token that is let in; None lets everybody in."""
    documents: dict[str, Json | str] = field(default_factory=dict)
    """Answers by path, e.g. ``/version``: JSON, or text as it is."""
    denied: list[str] = field(default_factory=list)
    """Regular expressions of ``verb kind`` that nobody may, e.g. ``list v1/nodes``."""
    may: Callable[[Json], bool] = lambda attributes: True
    """Answers access reviews."""
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    logs: dict[tuple[str, str], Log] = field(default_factory=dict)
    """By pod and container."""
    ends_logs_politely: bool = False
    """`break_logs` ends answers as if they were whole, as a proxy does that shuts down."""
    gone_by_status: bool = False
    """Tell of forgotten versions by HTTP status instead of in the stream."""
    objects: dict[tuple[str, str | None, str], Json] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    version: int = 100
    forgotten: int = 0
    epoch: int = 0
    log_epoch: int = 0
    stalled: int = 0
    """Requests that a fault makes wait now."""
    most_stalled: int = 0
    """The most of them at any one time."""
    changed: threading.Condition = field(default_factory=threading.Condition)

    def stall(self, seconds: float) -> None:
        """Keep a request waiting, and count how many wait at once."""
        with self.changed:
            self.stalled += 1
            self.most_stalled = max(self.most_stalled, self.stalled)
        time.sleep(seconds)
        with self.changed:
            self.stalled -= 1

    def put(self, path: str, item: Json) -> Json:
        """Create or change an object; ``path`` is that of its collection."""
        with self.changed:
            return self._put(Place.of(path), item)

    def create(self, place: Place, item: Json) -> Json | None:
        """Create an object; None if there is one of its name."""
        with self.changed:
            if (place.kind, place.namespace, item["metadata"]["name"]) in self.objects:
                return None
            return self._put(place, item)

    def remove(self, path: str, name: str) -> Json | None:
        """Remove an object; None if it is not there."""
        place = Place.of(path)
        with self.changed:
            item = self.objects.pop((place.kind, place.namespace, name), None)
            if item is not None:
                self.version += 1
                item = {**item, "metadata": {**item["metadata"], **self._stamp()}}
                self._tell("DELETED", place, item)
            return item

    def compact(self) -> None:
        """Forget all changes up to now: who asks for them is told to list again."""
        with self.changed:
            self.version += 1
            self.forgotten = self.version
            self.events.clear()

    def break_watches(self) -> None:
        """Reset all watches in the middle of a line."""
        with self.changed:
            self.epoch += 1
            self.changed.notify_all()

    def write_log(self, pod: str, container: str, *texts: str, at: str) -> None:
        """Add lines to a log; ``at`` is their common time without the fraction, as in a second."""
        with self.changed:
            log = self.logs.setdefault((pod, container), Log())
            for text in texts:
                log.lines.append((f"{at}.{len(log.lines):09d}Z", text))
            self.changed.notify_all()

    def end_log(self, pod: str, container: str, unended: str = "") -> None:
        """No more lines; ``unended`` is the last one."""
        with self.changed:
            log = self.logs.setdefault((pod, container), Log())
            log.unended, log.has_ended = unended, True
            self.changed.notify_all()

    def break_logs(self) -> None:
        """Reset all logs that are followed, in the middle of a line if there is one."""
        with self.changed:
            self.log_epoch += 1
            self.changed.notify_all()

    def fault_of(self, request: Request) -> Fault | None:
        """The fault that this request meets; it is used up."""
        target = f"{request.path}?{'&'.join(f'{k}={v}' for k, v in request.query.items())}"
        with self.changed:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times and fault.method in ("", request.method):
                    if re.search(fault.path, target) is None:
                        continue
                    fault.times -= 1
                    return fault
        return None

    def calls(self, method: str = "GET", path: str = "") -> list[Request]:
        """Requests so far whose path matches a regular expression."""
        with self.changed:
            return [r for r in self.requests if r.method == method and re.search(path, r.path)]

    def wait_for(self, holds: Callable[[], bool], seconds: float = 10.0) -> None:
        """Return once a condition holds; AssertionError if it does not in time."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.01)

    def _put(self, place: Place, item: Json) -> Json:
        key = place.kind, place.namespace, str(item["metadata"]["name"])
        known = self.objects.get(key)
        self.version += 1
        made = {"uid": str(uuid.uuid4()), "creationTimestamp": "2026-01-01T00:00:00Z"}
        kept = made if known is None else {name: known["metadata"][name] for name in made}
        where = {"namespace": place.namespace} if place.namespace else {}
        metadata = {**kept, **where, **item["metadata"], **self._stamp()}
        self.objects[key] = {**item, "metadata": metadata}
        self._tell("ADDED" if known is None else "MODIFIED", place, self.objects[key])
        return self.objects[key]

    def _stamp(self) -> Json:
        return {"resourceVersion": str(self.version)}

    def _tell(self, type_: str, place: Place, item: Json) -> None:
        self.events.append(Event(self.version, type_, place, item))
        self.changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are gone are no news in a test."""


@contextlib.contextmanager
def kube_api(certificate: tuple[Path, Path] | None = None, **fields: Any) -> Iterator[KubeApi]:
    """Serve on a free port of 127.0.0.1 until the block ends.

    Args:
        certificate: files of a certificate and key, for TLS.
        fields: of `KubeApi`.
    """
    from crucible.testing.kube_api_handler import handler_of

    api = KubeApi(**fields)
    server = _Server(("127.0.0.1", 0), handler_of(api))
    scheme = "http"
    if certificate is not None:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        scheme = "https"
    api.url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        api.break_watches()
        api.break_logs()
        server.shutdown()
        server.server_close()
        thread.join()
