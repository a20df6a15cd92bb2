"""A stand-in for KFP's API server: the calls that the engine makes, from memory, and faults.

What goes over the wire has the fields of the models of ``kfp_server_api``, so that the generated
client reads it as it reads a real server's. Runs do not run: a test moves them on with
`KfpServer.set_state`. Faults are given by request, e.g. an answer that is lost after the server has
acted.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

FaultKind = Literal["refuse", "lose-request", "lose-answer"]
Json = dict[str, Any]


@dataclass
class Fault:
    """What goes wrong with the next requests that match."""

    method: str
    path: str
    """A regular expression that the path must match from its beginning."""
    kind: FaultKind
    status: int = 503
    body: str = '{"error": "on purpose"}'
    times: int = 1


@dataclass
class KfpServer:
    """A running server."""

    url: str = ""
    runs: dict[str, Json] = field(default_factory=dict)
    """By id, as v2beta1 JSON."""
    experiments: dict[str, Json] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of every request, in order."""
    tokens: list[str] = field(default_factory=list)
    """Authorization headers seen."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def set_state(self, run_id: str, state: str, **fields: Any) -> None:
        """Move a run on."""
        run = self.runs[run_id]
        run["state"] = state
        run.setdefault("state_history", []).append({"update_time": _now(), "state": state})
        if state in ("SUCCEEDED", "FAILED", "CANCELED"):
            run["finished_at"] = _now()
        run.update(fields)

    def count(self, method: str, path: str) -> int:
        """How many requests of that method matched ``path``."""
        return sum(m == method and re.match(path, p) is not None for m, p in self.requests)

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets."""
        for fault in self.faults:
            if fault.times and fault.method == method and re.match(fault.path, path):
                fault.times -= 1
                return fault
        return None

    def answer(self, method: str, path: str, query: Json, body: Json) -> tuple[int, Any]:
        """Status and document."""
        for (wanted, pattern), handler in _ROUTES.items():
            match = re.fullmatch(pattern, path)
            if wanted == method and match:
                return handler(self, query, body, *match.groups())
        return 404, {"error": f"no such path {path}"}


@contextlib.contextmanager
def kfp_server() -> Iterator[KfpServer]:
    """A server on a free port of loopback, for the length of the block."""
    server = KfpServer()

    class Handler(_Handler):
        kfp = server

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    kfp: KfpServer

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _handle(self, method: str) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        with self.kfp.lock:
            self.kfp.requests.append((method, parts.path))
            self.kfp.tokens.append(self.headers.get("Authorization") or "")
            fault = self.kfp.take_fault(method, parts.path)
            if fault is not None and fault.kind == "refuse":
                self._send(fault.status, fault.body.encode())
                return
            if fault is not None and fault.kind == "lose-request":
                self.close_connection = True
                return
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            status, document = self.kfp.answer(method, parts.path, query, body or {})
        if fault is not None:
            self.close_connection = True
            return
        self._send(status, json.dumps(document).encode())

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _create_run(server: KfpServer, query: Json, body: Json) -> tuple[int, Any]:
    import kfp_server_api

    run_id = str(uuid.uuid4())
    run = {**body, "run_id": run_id, "created_at": _now(), "state": "PENDING"}
    known = set(kfp_server_api.V2beta1Run.openapi_types)
    unknown = run.keys() - known
    if unknown:
        return 400, {"error": f"unknown fields {sorted(unknown)}"}
    server.runs[run_id] = run
    return 200, run


def _list_runs(server: KfpServer, query: Json, body: Json) -> tuple[int, Any]:
    found = [run for run in server.runs.values() if _matches(run, query)]
    found.reverse()
    start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 10)
    page: Json = {"runs": found[start : start + size], "total_size": len(found)}
    if start + size < len(found):
        page["next_page_token"] = str(start + size)
    return 200, page


def _matches(run: Json, query: Json) -> bool:
    predicates = json.loads(query.get("filter") or "{}").get("predicates", [])
    keys = {"name": "display_name"}
    return all(run[keys[p["key"]]] == p["stringValue"] for p in predicates)


def _get_run(server: KfpServer, query: Json, body: Json, run_id: str) -> tuple[int, Any]:
    if run_id not in server.runs:
        return 404, {"error": f"Run {run_id} not found"}
    return 200, server.runs[run_id]


def _terminate(server: KfpServer, query: Json, body: Json, run_id: str) -> tuple[int, Any]:
    for state in ("CANCELING", "FAILED"):  # as a real server ends
        server.set_state(run_id, state)
    return 200, {}


def _retry(server: KfpServer, query: Json, body: Json, run_id: str) -> tuple[int, Any]:
    server.set_state(run_id, "RUNNING")
    server.runs[run_id].pop("finished_at", None)
    return 200, {}


def _create_experiment(server: KfpServer, query: Json, body: Json) -> tuple[int, Any]:
    name = str(body["display_name"])
    if any(known["display_name"] == name for known in server.experiments.values()):
        return 409, {"error": f"Failed to create the experiment {name}: it exists"}
    experiment_id = str(uuid.uuid4())
    server.experiments[experiment_id] = {**body, "experiment_id": experiment_id}
    return 200, server.experiments[experiment_id]


def _list_experiments(server: KfpServer, query: Json, body: Json) -> tuple[int, Any]:
    found = [known for known in server.experiments.values() if _matches(known, query)]
    return 200, {"experiments": found, "total_size": len(found)}


def _healthz(server: KfpServer, query: Json, body: Json) -> tuple[int, Any]:
    return 200, {"multi_user": False}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


_RUNS, _EXPERIMENTS = "/apis/v2beta1/runs", "/apis/v2beta1/experiments"
_ROUTES: dict[tuple[str, str], Callable[..., tuple[int, Any]]] = {
    ("POST", _RUNS): _create_run,
    ("GET", _RUNS): _list_runs,
    ("GET", rf"{_RUNS}/([^/:]+)"): _get_run,
    ("POST", rf"{_RUNS}/([^/:]+):terminate"): _terminate,
    ("POST", rf"{_RUNS}/([^/:]+):retry"): _retry,
    ("POST", _EXPERIMENTS): _create_experiment,
    ("GET", _EXPERIMENTS): _list_experiments,
    ("GET", "/apis/v2beta1/healthz"): _healthz,
}
