"""What a failed request to the Kubernetes API means: for the user, and for trying again."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crucible.errors import (
    ClusterError,
    ClusterRefused,
    ClusterUnavailable,
    CrucibleError,
    ObjectConflict,
    ObjectNotFound,
    ObjectRejected,
    UserError,
    VersionGone,
)

if TYPE_CHECKING:
    from kubernetes.client import ApiException

_TEMPORARY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_REJECTED_STATUSES = frozenset({400, 405, 413, 415, 422})
_DENIED = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]+)"'
    r' in API group "(?P<group>[^"]*)"(?: in the namespace "(?P<namespace>[^"]+)")?'
)
_ADMISSION = re.compile(r"is forbidden: |denied the request")
_UNTRUSTED = re.compile(
    r"CERTIFICATE|\bPEM\b|KEY_VALUES_MISMATCH|UNKNOWN_CA|WRONG_VERSION_NUMBER|NO_START_LINE"
)
"""In messages of TLS that no second try mends."""
_NOBODY = "system:anonymous"
"""Who we are to a server that got no credentials."""
_MAX_SAID_CHARS = 1000


@dataclass(frozen=True)
class Fault:
    """One failed request."""

    error: CrucibleError
    """What to raise if it is not tried again."""
    is_temporary: bool = False
    surely_not_done: bool = False
    """The server cannot have acted on it, so that a second try does nothing twice."""
    wait_seconds: float = 0.0
    """How long the server asked us to stay away."""
    is_expired: bool = False
    """The credentials were refused: new ones may help."""
    exists_already: bool = False


@dataclass(frozen=True)
class Request:
    """What was tried, for messages."""

    action: str
    """As in ``list pods``."""
    server: str
    user: str


def fault_of(error: Exception, request: Request) -> Fault | None:
    """What ``error`` means; None if it is no failure of a request."""
    import urllib3.exceptions
    import websocket
    from kubernetes.client import ApiException

    if isinstance(error, ApiException):
        if error.status:
            return _of_status(error, request)
        return _of_transport(error.__context__ or error, request, str(error.reason))
    if isinstance(error, urllib3.exceptions.HTTPError | websocket.WebSocketException | OSError):
        return _of_transport(error, request, str(error))
    return None


def _of_transport(error: BaseException, request: Request, said: str) -> Fault:
    """No answer, or half of one."""
    import ssl

    import urllib3.exceptions as http
    import websocket

    what = _shortened(said)
    if isinstance(error, ssl.SSLError | http.SSLError) and _UNTRUSTED.search(said):
        return Fault(
            UserError(
                f"{request.action}: no trusted connection to {request.server}: {what}. Check "
                "server, certificate-authority and client-certificate of the kubeconfig."
            )
        )
    if isinstance(error, http.LocationValueError):
        return Fault(UserError(f"{request.action}: {request.server} is no address: {what}."))
    if isinstance(error, websocket.WebSocketBadStatusException):
        return _of_handshake(error, request)
    never_sent = isinstance(
        error,
        http.NewConnectionError
        | http.ConnectTimeoutError
        | ConnectionRefusedError
        | http.ProxyError,
    )
    message = f"{request.action}: {request.server} does not answer: {what}."
    return Fault(ClusterUnavailable(message), is_temporary=True, surely_not_done=never_sent)


def _of_handshake(error: Any, request: Request) -> Fault:
    """A websocket that the server answered with a plain status."""
    status, body = int(error.status_code or 0), error.resp_body or b""
    return _of_answer(status, body, dict(error.resp_headers or {}), request)


def _of_status(error: ApiException, request: Request) -> Fault:
    headers = {str(key).lower(): str(value) for key, value in dict(error.headers or {}).items()}
    return _of_answer(int(error.status), error.body, headers, request)


def _of_answer(status: int, body: Any, headers: dict[str, str], request: Request) -> Fault:
    """An answer that is an error; ``body`` is a Status object if the API server made it."""
    document = _status_document(body)
    said = _shortened(str(document.get("message") or "")) or f"HTTP status {status}"
    reason = str(document.get("reason") or "")
    head = f"{request.action}: "
    if status == 401:
        return Fault(_expired(request), is_expired=True, surely_not_done=True)
    if status == 403 and f'"{_NOBODY}"' in said:
        return Fault(_expired(request), is_expired=True, surely_not_done=True)
    if status == 403:
        return Fault(_refused(document, said, request))
    if status == 404:
        return Fault(ObjectNotFound(f"{head}{said}."))
    if status == 409:
        return _of_conflict(document, reason, f"{head}{said}.")
    if status == 410:
        return Fault(VersionGone(f"{head}{said}."))
    if status in _TEMPORARY_STATUSES:
        wait_seconds = _retry_after(headers, document)
        error = ClusterUnavailable(f"{head}{request.server} answers {status}: {said}.")
        return Fault(
            error, is_temporary=True, surely_not_done=status == 429, wait_seconds=wait_seconds
        )
    if status in _REJECTED_STATUSES:
        return Fault(ObjectRejected(f"{head}{said}."))
    return Fault(ClusterError(f"{head}{request.server} answers {status}: {said}."))


def _of_conflict(document: dict[str, Any], reason: str, message: str) -> Fault:
    details = document.get("details") or {}
    if reason == "Conflict" and details.get("kind") == "resourcequotas":
        # Several objects were made at once: the quota could not be counted, nothing was created.
        return Fault(ClusterUnavailable(message), is_temporary=True, surely_not_done=True)
    return Fault(ObjectConflict(message), exists_already=reason == "AlreadyExists")


def _expired(request: Request) -> UserError:
    return UserError(
        f"{request.action}: {request.server} does not accept the credentials of {request.user}: "
        "the token or certificate is expired or not valid. Log in again."
    )


def _refused(document: dict[str, Any], said: str, request: Request) -> CrucibleError:
    """The right that is missing; what quota and admission forbid is no matter of rights."""
    denied = _DENIED.search(said)
    if denied is None:
        if "cannot " in said or not _ADMISSION.search(said):
            return ClusterRefused(
                f"{request.action}: 403: {said}. Ask an administrator of {request.server} for the "
                "right to do this."
            )
        return ObjectRejected(f"{request.action}: {said}.")
    verb, resource, group = denied["verb"], denied["resource"], denied["group"]
    namespace = denied["namespace"]
    kind = f"{resource}.{group}" if group else resource
    where, option = ("in all namespaces", "--all-namespaces")
    if namespace:
        where, option = (f"in namespace {namespace}", f"-n {namespace}")
    role = "Role and RoleBinding" if namespace else "ClusterRole and ClusterRoleBinding"
    return ClusterRefused(
        f"{request.action}: 403: user {denied['user']!r} may not {verb} {kind} {where}. Ask an "
        f"administrator for a {role} with verb {verb} on {kind}; `kubectl auth can-i {verb} "
        f"{kind} {option}` tells when it is there."
    )


def _status_document(body: Any) -> dict[str, Any]:
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    try:
        document = json.loads(text)
    except ValueError:
        return {"message": " ".join(text.split())} if text.strip() else {}
    return document if isinstance(document, dict) else {}


def _retry_after(headers: dict[str, str], document: dict[str, Any]) -> float:
    said = headers.get("retry-after") or (document.get("details") or {}).get("retryAfterSeconds")
    try:
        return max(0.0, float(said or 0))
    except ValueError:  # a date: no API server sends one
        return 0.0


def _shortened(said: str) -> str:
    text = " ".join(said.split()).rstrip(".")
    return text if len(text) <= _MAX_SAID_CHARS else f"{text[: _MAX_SAID_CHARS - 1]}…"
