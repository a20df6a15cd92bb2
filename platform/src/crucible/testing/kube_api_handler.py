"""How `crucible.testing.kube_api` answers over HTTP."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from crucible.testing.kube_api import Event, Fault, Json, KubeApi, Log, Place, Request

_REVIEWS = ("selfsubjectaccessreviews", "subjectaccessreviews")


class _Reset(Exception):
    """End the connection without a word."""


def handler_of(api: KubeApi) -> type[BaseHTTPRequestHandler]:
    """A handler class for ``api``."""

    class Handler(_Handler):
        pass

    Handler.api = api
    return Handler


class _Handler(BaseHTTPRequestHandler):
    api: KubeApi
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_DELETE = do_PATCH = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Tests look at `KubeApi.requests` instead."""

    def _serve(self) -> None:
        try:
            self._answer(self._read())
        except (_Reset, OSError):
            self._reset()

    def _read(self) -> Request:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        query = dict(parse_qsl(parts.query))
        token = (self.headers.get("Authorization") or "").partition(" ")[2]
        return Request(self.command, unquote(parts.path), query, token, time.monotonic(), body)

    def _answer(self, request: Request) -> None:
        fault = self.api.fault_of(request)
        if fault is not None and self._meet(fault):
            return
        lose_answer = fault is not None and fault.kind == "lose-answer"
        if self.api.token is not None and request.token != self.api.token:
            return self._status(401, "Unauthorized")
        if request.path in self.api.documents:
            return self._json(200, self.api.documents[request.path])
        place = Place.of(request.path)
        if place.part == "log":
            return self._log(place, request)
        if request.is_watch:
            return self._watch(place, request)
        status, document = self._act(place, request)
        if lose_answer:
            raise _Reset
        return self._json(status, document)

    def _meet(self, fault: Fault) -> bool:
        """True if the fault is the answer."""
        if fault.kind == "lose-request":
            raise _Reset
        if fault.kind == "stall":
            self.api.stall(fault.seconds)
            raise _Reset
        if fault.kind == "answer":
            document = _status(fault.status, fault.message, fault.reason, fault.details)
            self._json(fault.status, document, dict(fault.headers))
            return True
        return False

    def _act(self, place: Place, request: Request) -> tuple[int, Json]:
        verb = _verb(request, place)
        for pattern in self.api.denied:
            if pattern == f"{verb} {place.kind}":
                return 403, _denied(verb, place)
        plural = place.kind.rpartition("/")[2]
        if plural in _REVIEWS and request.body is not None:
            allowed = self.api.may(request.body["spec"])
            return 201, {**request.body, "status": {"allowed": allowed}}
        if request.method == "GET" and place.name is None:
            return 200, self._list(place, request)
        if request.method == "POST" and request.body is not None:
            made = self.api.create(place, request.body)
            name = request.body["metadata"]["name"]
            message = f'{plural} "{name}" already exists'
            return (201, made) if made else (409, _status(409, message, "AlreadyExists"))
        return self._one(place, request)

    def _one(self, place: Place, request: Request) -> tuple[int, Json]:
        """GET, PATCH or DELETE of one object."""
        plural, missing = place.kind.rpartition("/")[2], f'"{place.name}" not found'
        found = self.api.objects.get((place.kind, place.namespace, place.name or ""))
        if found is None:
            return 404, _status(404, f"{plural} {missing}", "NotFound")
        collection = request.path.rpartition("/")[0]
        if request.method == "DELETE":
            wanted = ((request.body or {}).get("preconditions") or {}).get("uid")
            if wanted not in (None, found["metadata"]["uid"]):
                return 409, _status(409, "the UID in the precondition differs", "Conflict")
            self.api.remove(collection, place.name or "")
        if request.method == "PATCH":
            found = self.api.put(collection, _merged(found, request.body or {}))
        return 200, found

    def _list(self, place: Place, request: Request) -> Json:
        with self.api.changed:
            items = [o for key, o in sorted(self.api.objects.items(), key=lambda kv: str(kv[0]))
                     if _is_in(place, *key[:2]) and _matches(o, request)]  # fmt: skip
            version = self.api.version
        limit = int(request.query.get("limit") or 0)
        start = int(request.query.get("continue") or 0)
        page = items[start : start + limit] if limit else items
        rest = str(start + limit) if limit and start + limit < len(items) else ""
        return {"items": page, "metadata": {"resourceVersion": str(version), "continue": rest}}

    def _watch(self, place: Place, request: Request) -> None:
        api, told = self.api, int(request.query["resourceVersion"])
        epoch, deadline = api.epoch, time.monotonic() + float(request.query["timeoutSeconds"])
        if told < api.forgotten and api.gone_by_status:
            return self._status(410, "too old resource version", "Expired")
        self._start_stream()
        while time.monotonic() < deadline:
            if told < api.forgotten:
                gone = _status(410, "too old resource version", "Expired")
                self._chunk(_line({"type": "ERROR", "object": gone}))
                break
            with api.changed:
                fresh = [e for e in api.events if e.version > told]
                if not fresh and api.epoch == epoch:
                    api.changed.wait(0.05)
                told = max([told, *(event.version for event in fresh)])
                is_broken = api.epoch != epoch
            for event in fresh:
                if _is_in(place, event.place.kind, event.place.namespace):
                    self._event(event, request)
            if is_broken:
                self._chunk(b'{"type": "MODIFIED", "object": {"metadata": {"na')
                raise _Reset
        return self._chunk(b"")

    def _event(self, event: Event, request: Request) -> None:
        if _matches(event.item, request):
            self._chunk(_line({"type": event.type, "object": event.item}))

    def _log(self, place: Place, request: Request) -> None:
        key = place.name or "", request.query.get("container", "")
        log = self.api.logs.get(key)
        if log is None:
            message = f'container "{key[1]}" in pod "{key[0]}" is waiting to start'
            return self._status(400, message, "BadRequest")
        epoch, follow = self.api.log_epoch, request.query.get("follow") == "true"
        self._start_stream()
        index = _first_line(log, request)
        while True:
            with self.api.changed:
                fresh, has_ended = log.lines[index:], log.has_ended
                is_broken = self.api.log_epoch != epoch
                if follow and not fresh and not has_ended and not is_broken:
                    self.api.changed.wait(0.05)
            for at, text in fresh:
                self._chunk(f"{at} {text}\n".encode())
            index += len(fresh)
            if is_broken:
                self._chunk(b"2026-01-01T00:00:00.000000000Z half of a li")
                if self.api.ends_logs_politely:
                    return self._chunk(b"")
                raise _Reset
            if (has_ended or not follow) and not fresh:
                if log.unended:
                    self._chunk(f"2026-01-01T00:59:59.000000000Z {log.unended}".encode())
                return self._chunk(b"")

    def _start_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _status(self, status: int, message: str, reason: str = "") -> None:
        self._json(status, _status(status, message, reason))

    def _json(
        self, status: int, document: Json | str, headers: dict[str, str] | None = None
    ) -> None:
        text = document if isinstance(document, str) else json.dumps(document)
        data = text.encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _reset(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()


def _verb(request: Request, place: Place) -> str:
    if request.method == "GET":
        return "get" if place.name else "list"
    return {"POST": "create", "PATCH": "patch", "DELETE": "delete"}[request.method]


def _denied(verb: str, place: Place) -> Json:
    version, _, plural = place.kind.rpartition("/")
    group = version.rpartition("/")[0]
    where = f' in the namespace "{place.namespace}"' if place.namespace else " at the cluster scope"
    message = (
        f'{plural} is forbidden: User "jane" cannot {verb} resource "{plural}" in API group '
        f'"{group}"{where}'
    )
    return _status(403, message, "Forbidden", {"kind": plural})


def _status(status: int, message: str, reason: str = "", details: Json | None = None) -> Json:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": status,
        "message": message,
        "reason": reason,
        "details": details or {},
    }


def _is_in(place: Place, kind: str, namespace: str | None) -> bool:
    return kind == place.kind and place.namespace in (None, namespace)


def _matches(item: Json, request: Request) -> bool:
    labels = item["metadata"].get("labels") or {}
    wanted = dict(_pairs(request.query.get("labelSelector", "")))
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for key, value in _pairs(request.query.get("fieldSelector", "")):
        found: Any = item
        for part in key.rstrip("!").split("."):
            found = (found or {}).get(part)
        if (found == value) == key.endswith("!"):
            return False
    return True


def _pairs(selector: str) -> Iterator[tuple[str, str]]:
    """Keys and values; a key ends with ``!`` where the value must differ."""
    for part in selector.split(",") if selector else ():
        key, _, value = part.partition("=")
        yield key, value


def _first_line(log: Log, request: Request) -> int:
    since = request.query.get("sinceTime", "")[:19]
    index = next((i for i, (at, _) in enumerate(log.lines) if at[:19] >= since), len(log.lines))
    tail = request.query.get("tailLines")
    return index if tail is None else max(index, len(log.lines) - int(tail))


def _merged(item: Json, changes: Json) -> Json:
    merged = dict(item)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = _merged(merged.get(key) or {}, value)
        else:
            merged[key] = value
    return merged


def _line(document: Json) -> bytes:
    return json.dumps(document).encode() + b"\n"
