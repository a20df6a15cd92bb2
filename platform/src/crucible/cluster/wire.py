"""One request through the library's client, with plain JSON on both sides.

The library's own models of objects are left aside: they know the fields of one version of
Kubernetes, and reading a long list into them takes many times as long as `json.loads`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import urllib3
    from kubernetes.client import ApiClient

Json = dict[str, Any]
Query = Mapping[str, str | int | bool | None]
"""Parameters of a request; one that is None is left out."""


def send(
    client: ApiClient,
    method: str,
    path: str,
    *,
    query: Query | None = None,
    body: Mapping[str, Any] | None = None,
    timeouts: tuple[float, float],
) -> urllib3.BaseHTTPResponse:
    """Send one request; its body is not read yet. What goes wrong is as the library raises it.

    ``timeouts`` are for the connection, and for each read.
    """
    headers = {"Accept": "application/json", "Content-Type": "application/json"}
    if method == "PATCH":
        headers["Content-Type"] = "application/merge-patch+json"
    response = client.call_api(
        path,
        method,
        query_params=[
            (key, _text(value)) for key, value in (query or {}).items() if value is not None
        ],
        header_params=headers,
        body=None if body is None else dict(body),
        auth_settings=["BearerToken"],
        _preload_content=False,
        _return_http_data_only=True,
        _request_timeout=timeouts,
    )
    return cast("urllib3.BaseHTTPResponse", response)


def read_json(response: urllib3.BaseHTTPResponse) -> Json:
    """The whole answer, a JSON object. A broken answer counts as a broken connection."""
    import urllib3.exceptions

    try:
        document = json.loads(response.data)
    except ValueError as error:
        raise urllib3.exceptions.ProtocolError(f"the answer is no JSON: {error}") from error
    finally:
        response.release_conn()
    if not isinstance(document, dict):
        raise urllib3.exceptions.ProtocolError("the answer is no JSON object")
    return document


def _text(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
