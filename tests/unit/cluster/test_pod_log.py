"""Every line of a log once, in order, over connections that break."""

from __future__ import annotations

import random
import threading
import time

import pytest

from crucible.cluster import pod_log
from crucible.cluster.pod_log import read_log
from crucible.errors import ClusterRefused, ObjectNotFound, ObjectRejected
from crucible.sdk.retry import Backoff
from crucible.testing.kube_api import Fault

PODS = "/api/v1/namespaces/runs/pods"


@pytest.fixture(autouse=True)
def brisk(monkeypatch) -> None:
    monkeypatch.setattr(pod_log, "_BACKOFF", Backoff(first_seconds=0.02, max_seconds=0.3))


def texts(connection, **options: object) -> list[str]:
    return [line.text for line in read_log(connection, "runs", "a", "main", **options)]


def finish(api, pod, phase: str = "Succeeded", unended: str = "") -> None:
    api.end_log("a", "main", unended)
    api.put(PODS, pod("a", phase))


def test_what_is_there(api, connection, pod) -> None:
    api.put(PODS, pod("a"))
    api.write_log("a", "main", "one", "", " two ", "\tthree", at="2026-01-01T00:00:00")
    assert texts(connection) == ["one", "", " two ", "\tthree"]
    assert len(api.requests) == 1


def test_times_of_lines(api, connection, pod) -> None:
    api.put(PODS, pod("a"))
    api.write_log("a", "main", "one", at="1970-01-01T00:01:40")
    (line,) = read_log(connection, "runs", "a", "main")
    assert line.at == pytest.approx(100.0)


@pytest.mark.parametrize("politely", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_breaks_lose_nothing_and_repeat_nothing(api, connection, pod, seed, politely) -> None:
    """Lines come in bursts of one second, many with equal texts, and connections end in one."""
    rng, written = random.Random(seed), []
    api.ends_logs_politely = politely
    api.put(PODS, pod("a"))
    api.write_log("a", "main", at="2026-01-01T00:00:00")

    def write() -> None:
        for second in range(40):
            for _ in range(rng.randrange(12)):
                text = rng.choice(["same", "same", f"line {len(written)}", ""])
                written.append(text)
                api.write_log("a", "main", text, at=f"2026-01-01T00:00:{second:02d}")
                if rng.random() < 0.1:
                    api.break_logs()
                time.sleep(rng.random() * 0.004)
        finish(api, pod)

    writer = threading.Thread(target=write)
    writer.start()
    got = texts(connection, follow=True)
    writer.join()
    assert got == written


def test_a_broken_read_without_following_goes_on(api, connection, pod) -> None:
    api.put(PODS, pod("a"))
    lines = [f"line {number}" for number in range(2000)]
    api.write_log("a", "main", *lines, at="2026-01-01T00:00:00")
    reading = read_log(connection, "runs", "a", "main")
    got = [next(reading).text]
    api.break_logs()
    got += [line.text for line in reading]
    assert got == lines


def test_the_last_line_may_have_no_end(api, connection, pod) -> None:
    api.put(PODS, pod("a"))
    api.write_log("a", "main", "one", at="2026-01-01T00:00:00")
    threading.Timer(0.3, finish, (api, pod, "Failed", "no end")).start()
    assert texts(connection, follow=True) == ["one", "no end"]


def test_following_waits_for_the_start(api, connection, pod) -> None:
    api.put(PODS, pod("a", "Pending"))

    def start() -> None:
        api.write_log("a", "main", "one", at="2026-01-01T00:00:00")
        api.put(PODS, pod("a"))
        time.sleep(0.3)
        finish(api, pod)

    threading.Timer(0.5, start).start()
    assert texts(connection, follow=True) == ["one"]
    assert len(api.requests) <= 8, "it waits by a watch and does not poll"


def test_a_container_that_never_started_has_no_log(api, connection, pod) -> None:
    api.put(PODS, pod("a", "Pending"))
    assert texts(connection) == []
    evicted = pod("a", "Failed", containerStatuses=[], reason="Evicted")
    threading.Timer(0.3, api.put, (PODS, evicted)).start()
    assert texts(connection, follow=True) == []


def test_a_pod_that_goes_away_while_it_is_waited_for(api, connection, pod) -> None:
    api.put(PODS, pod("a", "Pending"))
    threading.Timer(0.3, api.remove, (PODS, "a")).start()
    assert texts(connection, follow=True) == []


def test_a_pod_that_goes_away_while_it_is_read(api, connection, pod) -> None:
    api.put(PODS, pod("a"))
    api.write_log("a", "main", "one", at="2026-01-01T00:00:00")

    def go() -> None:
        api.remove(PODS, "a")
        api.end_log("a", "main")

    threading.Timer(0.3, go).start()
    assert texts(connection, follow=True) == ["one"]


@pytest.mark.parametrize("follow", [True, False])
def test_no_such_pod(api, connection, follow) -> None:
    api.faults.append(Fault("/log", status=404, message='pods "a" not found', times=9))
    with pytest.raises(ObjectNotFound, match="no such pod"):
        texts(connection, follow=follow)


def test_no_such_container(api, connection, pod) -> None:
    api.put(PODS, pod("a"))
    with pytest.raises(ObjectRejected, match="other"):
        list(read_log(connection, "runs", "a", "other", follow=True))


def test_no_right_to_read(api, connection, pod) -> None:
    api.put(PODS, pod("a"))
    said = 'User "jane" cannot get resource "pods/log" in API group "" in the namespace "runs"'
    api.faults.append(Fault("/log", status=403, message=said))
    with pytest.raises(ClusterRefused, match="get pods/log in namespace runs"):
        texts(connection, follow=True)


def test_the_tail_and_since(api, connection, pod) -> None:
    api.put(PODS, pod("a"))
    for second in range(5):
        api.write_log("a", "main", f"s{second}", at=f"2026-01-01T00:00:{second:02d}")
    assert texts(connection, tail=2) == ["s3", "s4"]
    at = 1767225602.9  # 2026-01-01T00:00:02.9Z: the whole second is told
    assert texts(connection, since=at) == ["s2", "s3", "s4"]


def test_a_break_after_the_tail_does_not_bring_it_again(api, connection, pod) -> None:
    api.put(PODS, pod("a"))
    for second in range(5):
        api.write_log("a", "main", f"s{second}", at=f"2026-01-01T00:00:{second:02d}")
    reading = read_log(connection, "runs", "a", "main", follow=True, tail=1)
    assert next(reading).text == "s4"
    api.break_logs()
    api.write_log("a", "main", "s5", "s6", at="2026-01-01T00:00:05")
    finish(api, pod)
    assert [line.text for line in reading] == ["s5", "s6"]


def test_a_container_that_starts_again_is_followed(api, connection, pod) -> None:
    def restarting(state: str, **fields: object) -> dict[str, object]:
        item = pod("a")
        item["spec"]["restartPolicy"] = "OnFailure"
        entry = {"name": "main", "state": {state: fields}, "restartCount": 1}
        item["status"]["containerStatuses"] = [entry]
        return item

    api.put(PODS, restarting("running"))
    api.write_log("a", "main", "first", at="2026-01-01T00:00:00")

    def go() -> None:
        api.put(PODS, restarting("terminated", exitCode=1))
        api.end_log("a", "main")
        time.sleep(0.5)
        api.logs.pop(("a", "main"))
        api.write_log("a", "main", "second", at="2026-01-01T00:00:09")
        api.put(PODS, restarting("running"))
        time.sleep(0.3)
        finish(api, pod)

    threading.Timer(0.3, go).start()
    assert texts(connection, follow=True) == ["first", "second"]


def test_a_silent_log_costs_few_requests(api, connection, pod, monkeypatch) -> None:
    monkeypatch.setattr(pod_log, "_IDLE_SECONDS", 0.5)
    api.put(PODS, pod("a"))
    api.write_log("a", "main", "one", at="2026-01-01T00:00:00")
    threading.Timer(2.0, finish, (api, pod)).start()
    assert texts(connection, follow=True) == ["one"]
    assert len(api.requests) <= 14
