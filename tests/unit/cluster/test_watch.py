"""A watch tells every change once, whatever happens to its requests, and spares the server."""

from __future__ import annotations

import collections
import random
import threading
import time

import pytest

from crucible.cluster import Patience
from crucible.cluster.watch import Watch, WatchPace
from crucible.errors import ClusterRefused, ClusterUnavailable, ObjectNotFound
from crucible.sdk.retry import Backoff
from crucible.testing.kube_api import Fault

PODS = "/api/v1/namespaces/runs/pods"
BRISK = WatchPace(backoff=Backoff(first_seconds=0.02, max_seconds=0.5))


def named(name: str, turn: int = 0) -> dict[str, object]:
    return {"metadata": {"name": name, "labels": {"run": "a"}}, "turn": turn}


def watch(connection, *, pace: WatchPace = BRISK, **query: str) -> Watch:
    return Watch(connection, "watch pods", PODS, query, view=lambda item: item, pace=pace)


def told(watching: Watch, count: int, seconds: float = 20.0) -> list[tuple[str, str, str]]:
    """Kind, name and version of the next changes."""
    changes, deadline = [], time.monotonic() + seconds
    while len(changes) < count and time.monotonic() < deadline:
        change = watching.get(timeout_seconds=0.5)
        if change is not None:
            metadata = change.item["metadata"]
            changes.append((change.kind, metadata["name"], metadata["resourceVersion"]))
    return changes


def sync(watching: Watch) -> None:
    """Wait until an empty collection has been listed."""
    deadline = time.monotonic() + 10.0
    while not watching.is_synced:
        assert watching.get(timeout_seconds=0.05) is None
        assert time.monotonic() < deadline


def test_first_what_is_there_then_every_change(api, connection) -> None:
    api.put(PODS, named("a"))
    with watch(connection) as watching:
        assert [c[:2] for c in told(watching, 1)] == [("added", "a")]
        sync(watching)
        api.put(PODS, named("b"))
        api.put(PODS, named("a", turn=1))
        api.remove(PODS, "a")
        assert [c[:2] for c in told(watching, 3)] == [
            ("added", "b"), ("modified", "a"), ("deleted", "a"),
        ]  # fmt: skip


def test_an_empty_collection_is_synced(api, connection) -> None:
    with watch(connection) as watching:
        sync(watching)


def test_it_can_be_iterated(api, connection) -> None:
    for name in "abc":
        api.put(PODS, named(name))
    names = []
    with watch(connection) as watching:
        for change in watching:
            names.append(change.item["metadata"]["name"])
            if len(names) == 3:
                break
    assert names == ["a", "b", "c"]


@pytest.mark.parametrize("seed", range(4))
def test_no_change_is_lost_or_told_twice(api, connection, seed) -> None:
    """Requests are reset in the middle of a line and history is forgotten while objects change."""
    rng, last = random.Random(seed), "the-last"

    def act() -> None:
        for turn in range(300):
            name = f"pod-{rng.randrange(8)}"
            if rng.random() < 0.2:
                api.remove(PODS, name)
            else:
                api.put(PODS, named(name, turn))
            if rng.random() < 0.06:
                api.break_watches()
            if rng.random() < 0.02:
                api.compact()
            time.sleep(rng.random() * 0.01)
        api.put(PODS, named(last))

    actor = threading.Thread(target=act)
    seen, kept = [], {}
    with watch(connection) as watching:
        actor.start()
        for change in watching:
            metadata = change.item["metadata"]
            seen.append((change.kind, metadata["uid"], metadata["resourceVersion"]))
            if change.kind == "deleted":
                assert metadata["name"] in kept, "what went away was told before"
                del kept[metadata["name"]]
            else:
                assert (change.kind == "added") == (metadata["name"] not in kept)
                kept[metadata["name"]] = change.item
            if metadata["name"] == last:
                break
        actor.join()
    there = {key[2]: item for key, item in api.objects.items()}
    assert kept == there
    told_changes = collections.Counter((uid, v) for kind, uid, v in seen if kind != "deleted")
    assert max(told_changes.values()) == 1
    gone = collections.Counter(uid for kind, uid, _ in seen if kind == "deleted")
    assert max(gone.values(), default=1) == 1
    per_object = collections.defaultdict(list)
    for _, uid, version in seen:
        per_object[uid].append(int(version))
    assert all(versions == sorted(versions) for versions in per_object.values())


def test_nothing_is_missed_while_history_is_kept(api, connection) -> None:
    """Without forgetting, resets alone cost no change: every version is told."""
    with watch(connection) as watching:
        sync(watching)
        versions = []
        for turn in range(60):
            versions.append(api.put(PODS, named("a", turn))["metadata"]["resourceVersion"])
            if turn % 7 == 3:
                api.break_watches()
        got = [c[2] for c in told(watching, len(versions))]
    assert got == versions
    assert len([r for r in api.requests if not r.is_watch]) == 1, "it never had to list again"


@pytest.mark.parametrize("by_status", [True, False])
def test_after_a_forgotten_version_only_differences_are_told(api, connection, by_status) -> None:
    api.gone_by_status = by_status
    for name in "abc":
        api.put(PODS, named(name))
    with watch(connection) as watching:
        assert len(told(watching, 3)) == 3
        api.wait_for(lambda: any(r.is_watch for r in api.requests))
        with api.changed:  # all of this happens before the next request
            api.break_watches()
            api.put(PODS, named("b", turn=1))
            api.remove(PODS, "c")
            api.put(PODS, named("d"))
            api.compact()
        assert sorted(c[:2] for c in told(watching, 3)) == [
            ("added", "d"), ("deleted", "c"), ("modified", "b"),
        ]  # fmt: skip
        assert watching.get(timeout_seconds=0.5) is None


def test_a_quiet_watch_makes_two_requests(api, connection) -> None:
    with watch(connection) as watching:
        sync(watching)
        assert watching.get(timeout_seconds=2.0) is None
    assert [request.is_watch for request in api.requests] == [False, True]


def test_many_changes_cost_no_further_requests(api, connection) -> None:
    with watch(connection) as watching:
        sync(watching)
        for turn in range(500):
            api.put(PODS, named("a", turn))
        assert len(told(watching, 500)) == 500
    assert len(api.requests) == 2


def test_a_silent_connection_is_replaced(api, connection) -> None:
    pace = WatchPace(idle_seconds=0.3, backoff=BRISK.backoff)
    with watch(connection, pace=pace) as watching:
        sync(watching)
        assert watching.get(timeout_seconds=2.0) is None
        assert 3 <= len(api.requests) <= 8
        api.put(PODS, named("a"))
        assert [c[:2] for c in told(watching, 1)] == [("added", "a")]


def test_a_server_that_ends_every_request_at_once_is_not_stormed(api, connection) -> None:
    pace = WatchPace(request_seconds=0, backoff=Backoff(first_seconds=0.05, max_seconds=10.0))
    with watch(connection, pace=pace) as watching:
        assert watching.get(timeout_seconds=3.0) is None
    assert len(api.requests) <= 9, "the pauses double"


def test_a_server_that_forgets_everything_is_not_stormed(api, connection) -> None:
    api.faults.append(Fault("watch=true", status=410, times=1_000_000))
    pace = WatchPace(backoff=Backoff(first_seconds=0.05, max_seconds=10.0))
    with watch(connection, pace=pace) as watching:
        assert watching.get(timeout_seconds=3.0) is None
    assert len(api.requests) <= 18


def test_a_server_that_is_away_for_a_while(api, connection) -> None:
    with watch(connection) as watching:
        sync(watching)
        api.faults.append(Fault("", kind="lose-request", times=1_000_000))
        api.break_watches()
        api.put(PODS, named("a"))
        time.sleep(1.0)
        api.faults.clear()
        assert [c[:2] for c in told(watching, 1)] == [("added", "a")]


def test_a_server_that_stays_away_ends_it(api, connection) -> None:
    hasty = connection.with_patience(Patience(0.5, 1.0, 1.0, Backoff(first_seconds=0.1)))
    with watch(hasty) as watching:
        sync(watching)
        api.faults.append(Fault("", times=1_000_000))
        api.break_watches()
        with pytest.raises(ClusterUnavailable):
            watching.get(timeout_seconds=10.0)


def test_missing_rights_reach_the_consumer(api, connection) -> None:
    api.denied = ["list v1/pods"]
    with watch(connection) as watching, pytest.raises(ClusterRefused, match="watch pods"):
        watching.get(timeout_seconds=10.0)


def test_an_unknown_kind_reaches_the_consumer(api, connection) -> None:
    api.faults.append(Fault("", status=404, message="the server could not find the resource"))
    with watch(connection) as watching, pytest.raises(ObjectNotFound):
        watching.get(timeout_seconds=10.0)


def test_selectors_are_sent(api, connection) -> None:
    api.put(PODS, named("a"))
    api.put(PODS, {"metadata": {"name": "b", "labels": {"run": "b"}}})
    with watch(connection, labelSelector="run=b") as watching:
        assert [c[:2] for c in told(watching, 1)] == [("added", "b")]
        api.put(PODS, named("c"))
        assert watching.get(timeout_seconds=0.3) is None


def test_closing_ends_thread_and_request_at_once(api, connection) -> None:
    watching = watch(connection)
    with watching:
        sync(watching)
        closer = threading.Timer(0.3, watching.close)
        closer.start()
        started = time.monotonic()
        assert list(watching) == []
        assert time.monotonic() - started < 2.0
    watching._thread.join(2.0)
    assert not watching._thread.is_alive()


def test_a_slow_consumer_gets_everything(api, connection) -> None:
    for number in range(2500):
        api.put(PODS, named(f"p{number:04d}"))
    with watch(connection) as watching:
        time.sleep(0.5)
        assert len({c[1] for c in told(watching, 2500)}) == 2500
