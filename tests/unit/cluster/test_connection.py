"""Requests to an API server that misbehaves: typed, tried again, never done twice."""

from __future__ import annotations

import itertools
import socket
import threading
import time

import pytest

from crucible.cluster import Patience
from crucible.cluster.connection import CREATION
from crucible.cluster.wire import read_json, send
from crucible.errors import (
    ClusterError,
    ClusterRefused,
    ClusterUnavailable,
    ObjectConflict,
    ObjectNotFound,
    ObjectRejected,
    UserError,
    VersionGone,
)
from crucible.sdk.retry import Backoff
from crucible.testing.cluster.credentials import Authority
from crucible.testing.kube_api import Fault, kube_api

PODS = "/api/v1/namespaces/runs/pods"


def named(name: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}


def test_nothing_is_read_before_the_first_request(connect_to) -> None:
    connect_to("http://127.0.0.1:9", user={"tokenFile": "/no/such/file"})


def test_a_long_list_comes_in_pages(api, connection) -> None:
    for number in range(1203):
        api.put(PODS, named(f"pod-{number:04d}"))
    items, version = connection.items("list pods", PODS)
    assert [item["metadata"]["name"] for item in items] == [f"pod-{n:04d}" for n in range(1203)]
    assert version == str(api.version)
    assert len(api.requests) == 3


def test_a_list_that_was_forgotten_between_two_pages_starts_again(api, connection) -> None:
    for number in range(600):
        api.put(PODS, named(f"pod-{number}"))
    api.faults.append(Fault("continue=500", status=410))
    items, _ = connection.items("list pods", PODS)
    assert len(items) == 600
    assert len(api.requests) == 4


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(api, connection, status) -> None:
    api.put(PODS, named("a"))
    api.faults.append(Fault("pods/a", status=status, times=2))
    assert connection.get("look at a", f"{PODS}/a")["metadata"]["name"] == "a"
    assert len(api.requests) == 3


@pytest.mark.parametrize("kind", ["lose-request", "lose-answer"])
def test_a_broken_connection_is_tried_again(api, connection, kind) -> None:
    api.put(PODS, named("a"))
    api.faults.append(Fault("pods/a", kind=kind, times=3))
    assert connection.get("look at a", f"{PODS}/a")["metadata"]["name"] == "a"
    assert len(api.requests) == 4


def test_a_server_that_says_nothing_is_tried_again(api, connect_to) -> None:
    patience = Patience(5.0, 1.0, 0.3, Backoff(first_seconds=0.02))
    connection = connect_to(api.url, patience=patience)
    api.put(PODS, named("a"))
    api.faults.append(Fault("pods/a", kind="stall", seconds=2.0))
    assert connection.get("look at a", f"{PODS}/a")
    assert len(api.requests) == 2


def test_retry_after_is_honoured(api, connection) -> None:
    api.put(PODS, named("a"))
    api.faults.append(Fault("pods/a", status=429, headers={"Retry-After": "1"}))
    connection.get("look at a", f"{PODS}/a")
    first, second = api.requests
    assert second.at - first.at >= 1.0


def test_a_retry_after_beyond_the_budget_is_not_waited_for(api, connection) -> None:
    api.faults.append(Fault("pods/a", status=429, headers={"Retry-After": "60"}))
    started = time.monotonic()
    with pytest.raises(ClusterUnavailable, match="answers 429"):
        connection.get("look at a", f"{PODS}/a")
    assert time.monotonic() - started < 2.0
    assert len(api.requests) == 1


def test_pauses_grow_and_differ(api, connect_to) -> None:
    patience = Patience(10.0, 1.0, 2.0, Backoff(first_seconds=0.1, factor=2.0, max_seconds=0.4))
    connection = connect_to(api.url, patience=patience)
    api.put(PODS, named("a"))
    api.faults.append(Fault("pods/a", times=4))
    connection.get("look at a", f"{PODS}/a")
    times = [request.at for request in api.requests]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    for pause, full in zip(pauses, (0.1, 0.2, 0.4, 0.4), strict=True):
        assert full * 0.75 <= pause < full + 0.3


def test_the_budget_ends_it_and_the_message_says_so(api, connect_to) -> None:
    patience = Patience(1.0, 1.0, 1.0, Backoff(first_seconds=0.2, max_seconds=0.2))
    connection = connect_to(api.url, patience=patience)
    api.faults.append(Fault("pods/a", message="etcd has no leader", times=1000))
    started = time.monotonic()
    with pytest.raises(ClusterUnavailable) as caught:
        connection.get("look at a", f"{PODS}/a")
    assert time.monotonic() - started < 2.0
    assert caught.value.exit_code == 75
    assert "look at a" in caught.value.message
    assert "etcd has no leader" in caught.value.message
    assert f"Tried {len(api.requests)} times" in caught.value.message


def test_nobody_listens(connect_to) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    connection = connect_to(f"http://127.0.0.1:{port}", patience=Patience(0.5, 1.0, 1.0))
    with pytest.raises(ClusterUnavailable, match="does not answer"):
        connection.get("list pods", PODS)


def test_a_server_that_comes_back_within_the_budget(api, connection) -> None:
    api.put(PODS, named("a"))
    connection.get("look at a", f"{PODS}/a")
    api.faults.append(Fault("", kind="lose-request", times=1_000_000))
    threading.Timer(1.0, api.faults.clear).start()
    assert connection.get("look at a", f"{PODS}/a")


def test_missing_rights_are_named(api, connection) -> None:
    api.denied = ["list v1/pods", "get v1/nodes"]
    with pytest.raises(ClusterRefused) as caught:
        connection.items("list pods of run 12", PODS)
    message = caught.value.message
    for part in ("list pods of run 12", "'jane'", "list pods", "namespace runs", "Role"):
        assert part in message
    assert "kubectl auth can-i list pods -n runs" in message
    with pytest.raises(ClusterRefused, match="get nodes in all namespaces"):
        connection.get("look at a node", "/api/v1/nodes/n")
    assert len(api.requests) == 2


def test_who_is_nobody_to_the_server_has_to_log_in(api, connection) -> None:
    said = 'pods is forbidden: User "system:anonymous" cannot list resource "pods"'
    api.faults.append(Fault("", status=403, message=said, times=2))
    with pytest.raises(UserError, match="Log in again"):
        connection.get("list pods", PODS)


QUOTA = 'pods "a" is forbidden: exceeded quota: gpus, requested: nvidia.com/gpu=8, limited: 4'
SECURITY = 'pods "a" is forbidden: violates PodSecurity "restricted:latest"'


@pytest.mark.parametrize(
    ("status", "reason", "message", "error"),
    [
        (400, "BadRequest", "admission webhook denied the request: no", ObjectRejected),
        (403, "Forbidden", QUOTA, ObjectRejected),
        (403, "Forbidden", SECURITY, ObjectRejected),
        (403, "", "", ClusterRefused),
        (404, "NotFound", 'pods "a" not found', ObjectNotFound),
        (409, "AlreadyExists", 'pods "a" already exists', ObjectConflict),
        (409, "Conflict", "the object has been modified", ObjectConflict),
        (410, "Expired", "too old resource version", VersionGone),
        (413, "RequestEntityTooLarge", "limit is 3145728", ObjectRejected),
        (422, "Invalid", "spec.containers: Required value", ObjectRejected),
        (501, "", "not here", ClusterError),
    ],
)
def test_refusals_are_typed_and_keep_the_servers_words(
    api, connection, status, reason, message, error
) -> None:
    api.faults.append(Fault("", status=status, reason=reason, message=message, times=9))
    with pytest.raises(ClusterError) as caught:
        connection.get("start a", f"{PODS}/a")
    assert type(caught.value) is error
    assert caught.value.exit_code == 1
    assert "start a" in caught.value.message
    assert message.rstrip(".") in caught.value.message
    assert len(api.requests) == 1


def test_an_answer_that_is_no_json_is_a_broken_one(api, connection) -> None:
    hasty = connection.with_patience(Patience(0.3, 1.0, 1.0))
    for text, said in (('["a"]', "no JSON object"), ("<html>", "no JSON")):
        api.documents["/version"] = text
        with pytest.raises(ClusterUnavailable, match=said):
            hasty.get("ask for the version", "/version")


def test_refused_credentials_are_read_anew_once(api, connect_to, tmp_path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    connection = connect_to(api.url, user={"tokenFile": str(token)})
    api.put(PODS, named("a"))
    api.token = "old"
    connection.get("look at a", f"{PODS}/a")
    api.token = "new"
    token.write_text("new")
    assert connection.get("look at a", f"{PODS}/a")
    assert [request.token for request in api.requests] == ["old", "old", "new"]
    token.write_text("expired")
    api.token = "newest"
    with pytest.raises(UserError, match="Log in again"):
        connection.get("look at a", f"{PODS}/a")
    assert [request.token for request in api.requests[3:]] == ["new", "expired"]


@pytest.mark.parametrize("losses", [1, 3])
def test_a_create_whose_answer_is_lost_creates_once(api, connection, losses) -> None:
    api.faults.append(Fault(method="POST", kind="lose-answer", times=losses))
    made = connection.create("create a", PODS, named("a"))
    assert len(api.calls("POST")) == losses + 1
    assert len(api.objects) == 1
    assert made == next(iter(api.objects.values()))
    assert [event.type for event in api.events] == ["ADDED"]


def test_a_create_that_never_arrived_is_repeated(api, connection) -> None:
    api.faults.append(Fault(method="POST", kind="lose-request", times=2))
    api.faults.append(Fault(method="POST", status=429, headers={"Retry-After": "0"}))
    connection.create("create a", PODS, named("a"))
    assert [event.type for event in api.events] == ["ADDED"]


def test_somebody_elses_object_is_a_conflict(api, connection) -> None:
    api.put(PODS, named("a"))
    with pytest.raises(ObjectConflict, match="already exists"):
        connection.create("create a", PODS, named("a"))
    api.faults.append(Fault(method="POST", kind="lose-request"))
    with pytest.raises(ObjectConflict):
        connection.create("create a", PODS, named("a"))
    assert [event.type for event in api.events] == ["ADDED"]


def test_a_create_keeps_the_callers_annotations(api, connection) -> None:
    body = {"metadata": {"name": "a", "annotations": {"mine": "1"}}}
    made = connection.create("create a", PODS, body)
    assert made["metadata"]["annotations"].keys() == {"mine", CREATION}
    assert body["metadata"]["annotations"] == {"mine": "1"}


def test_a_quota_that_could_not_be_counted_is_tried_again(api, connection) -> None:
    busy = "Operation cannot be fulfilled on resourcequotas: the object has been modified"
    details = {"kind": "resourcequotas"}
    api.faults.append(
        Fault(method="POST", status=409, reason="Conflict", message=busy, details=details)
    )
    connection.create("create a", PODS, named("a"))
    assert [event.type for event in api.events] == ["ADDED"]


def test_what_must_not_happen_twice_is_sent_again_only_if_it_cannot_have_happened(
    api, connection
) -> None:
    def post(client) -> None:
        read_json(send(client, "POST", PODS, body=named("a"), timeouts=(1.0, 1.0)))

    api.faults.append(Fault(method="POST", status=429))
    connection.call("create a", post, repeat=False)
    assert len(api.calls("POST")) == 2
    for fault in (Fault(method="POST", kind="lose-answer"), Fault(method="POST", status=500)):
        before = len(api.calls("POST"))
        api.faults.append(fault)
        with pytest.raises(ClusterUnavailable):
            connection.call("create a", post, repeat=False)
        assert len(api.calls("POST")) == before + 1


def test_deletes(api, connection) -> None:
    uid = api.put(PODS, named("a"))["metadata"]["uid"]
    assert connection.delete("delete a", f"{PODS}/a", uid="another") is False
    api.faults.append(Fault(method="DELETE", kind="lose-answer"))
    connection.delete("delete a", f"{PODS}/a", uid=uid)
    assert connection.delete("delete a", f"{PODS}/a") is False
    assert [event.type for event in api.events] == ["ADDED", "DELETED"]


def test_errors_of_callers_pass(connection) -> None:
    def fails(client) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        connection.call("do it", fails)


def test_tls(connect_to, tmp_path) -> None:
    authority = Authority(tmp_path / "pki", "https://127.0.0.1")
    stranger = Authority(tmp_path / "stranger", "https://127.0.0.1")
    identity = authority.issue("server", hosts=["127.0.0.1"])
    with kube_api((identity.certificate, identity.key)) as api:
        api.documents["/version"] = {"gitVersion": "v1"}
        trusted = {"certificate-authority": str(authority.certificate)}
        assert connect_to(api.url, **trusted).get("ask", "/version")
        started = time.monotonic()
        untrusted = connect_to(api.url, **{"certificate-authority": str(stranger.certificate)})
        with pytest.raises(UserError, match="certificate-authority"):
            untrusted.get("ask", "/version")
        assert time.monotonic() - started < 2.0
        skipping = connect_to(api.url, **{"insecure-skip-tls-verify": True})
        with pytest.warns(match="Unverified HTTPS"):
            assert skipping.get("ask", "/version")


def test_a_handshake_that_hangs_counts_as_no_answer(connect_to) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        patience = Patience(1.0, 0.3, 0.3, Backoff(first_seconds=0.1, max_seconds=0.1))
        connection = connect_to(f"https://127.0.0.1:{port}", patience=patience)
        with pytest.raises(ClusterUnavailable, match="does not answer"):
            connection.get("ask", "/version")


def test_threads_share_a_connection(api, connection) -> None:
    for number in range(20):
        api.put(PODS, named(f"p{number}"))
    api.faults.append(Fault("", times=10))
    failed = []

    def look(number: int) -> None:
        if connection.get("look", f"{PODS}/p{number}")["metadata"]["name"] != f"p{number}":
            failed.append(number)

    threads = [threading.Thread(target=look, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(api.requests) == 30
