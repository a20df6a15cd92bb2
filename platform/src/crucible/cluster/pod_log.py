"""`read_log`: the log of a container, every line once, whatever happens to the connection.

The API server can start a log at a second, not at a line. So after a break the lines of the last
second are read again, and those that were told already are left out; lines carry the runtime's
nanoseconds, which tells equal texts apart. A line of which only half came is left to the next
request. The log ends when its container has ended for good and everything was read after that.
Limit: lines that the node has rotated away during a break are lost.
"""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from crucible.cluster.connection import Connection
from crucible.cluster.lines import Broken, lines_of
from crucible.cluster.paths import path_of
from crucible.cluster.pods import PodView, get_pod, watch_pods
from crucible.cluster.times import seconds_of, text_of
from crucible.errors import ObjectNotFound, ObjectRejected
from crucible.sdk.retry import Backoff

_STAMPED = re.compile(
    rb"(?P<second>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?P<fraction>\.\d+)?(?P<zone>Z|[+-]\d\d:\d\d) "
)
_IDLE_SECONDS = 120.0
"""Silence after which the connection counts as dead: one request more for a log that is silent."""
_BACKOFF = Backoff(first_seconds=0.25, max_seconds=10.0)


@dataclass(frozen=True)
class LogLine:
    """One line."""

    text: str
    at: float | None
    """When the container wrote it, in seconds since the epoch."""


@dataclass
class _Place:
    """How far a log has been told."""

    since: str | None
    """Second at which the next request starts; the whole log if None."""
    tail: int | None
    told: Counter[bytes] = field(default_factory=Counter)
    """Lines of that second."""
    num_told: int = 0

    def pass_(self, line: bytes) -> None:
        """Take note of a line that was told."""
        self.num_told += 1
        stamp = _STAMPED.match(line)
        if stamp is None:
            return
        second = (stamp["second"] + stamp["zone"]).decode()
        if second != self.since:
            self.since, self.told = second, Counter()
        self.told[line] += 1
        self.tail = None


def read_log(
    connection: Connection,
    namespace: str,
    pod: str,
    container: str,
    *,
    follow: bool = False,
    since: float | None = None,
    tail: int | None = None,
) -> Iterator[LogLine]:
    """Lines of a container, oldest first; none if it has not started.

    Args:
        connection: the cluster.
        namespace: of the pod.
        pod: its name.
        container: name of the container.
        follow: wait for its start and for more lines, until it has ended for good.
        since: leave out lines before this second since the epoch.
        tail: at most this many of the lines that are there at the start.

    Raises:
        ObjectNotFound: no such pod. One that goes away while it is read ends its log.
        ObjectRejected: it has no such container.
        CrucibleError: else as `Connection.call`.
    """
    place = _Place(None if since is None else text_of(since), tail)
    reader = _Reader(connection, namespace, pod, container, place)
    return reader.follow() if follow else reader.rest()


@dataclass
class _Reader:
    """Reads one log from a place on."""

    connection: Connection
    namespace: str
    pod: str
    container: str
    place: _Place
    fruitless: int = 0
    rng: random.Random = field(default_factory=random.Random)

    def follow(self) -> Iterator[LogLine]:
        """Lines until the container has ended for good."""
        while True:
            pod = get_pod(self.connection, self.namespace, self.pod)
            if pod is None:
                self._check_was_there()
                return
            state = _state_of(pod, self.container)
            if state == "running":
                with contextlib.suppress(Broken, ObjectNotFound):
                    yield from self._read(follow=True)
                self._pause()
                continue
            if state in ("between", "over"):
                yield from self.rest()
            if state in ("over", "never") or not self._wait_for_start():
                return

    def rest(self) -> Iterator[LogLine]:
        """Lines that are there now."""
        while True:
            try:
                yield from self._read(follow=False)
            except Broken:
                self._pause()
                continue
            except ObjectNotFound:
                self._check_was_there()
            except ObjectRejected:
                pod = get_pod(self.connection, self.namespace, self.pod)
                if pod is None or _state_of(pod, self.container) not in ("unborn", "never"):
                    raise
            return

    def _read(self, *, follow: bool) -> Iterator[LogLine]:
        """One request; raises `Broken` if it did not come to its end."""
        query = {
            "container": self.container,
            "follow": follow or None,
            "timestamps": True,
            "sinceTime": self.place.since,
            "tailLines": self.place.tail,
        }
        path = path_of("v1", "pods", namespace=self.namespace, name=self.pod, part="log")
        action = f"read the log of {self.pod}"
        again = Counter(self.place.told)
        num_before = self.place.num_told
        response = self.connection.open(action, path, query, read_seconds=_IDLE_SECONDS)
        with contextlib.closing(response):
            for line in lines_of(response, raises=True):
                if again[line.data] > 0:
                    again[line.data] -= 1
                elif line.is_whole or not follow:
                    self.place.pass_(line.data)
                    yield _log_line(line.data)
                if self.place.num_told > num_before:
                    self.fruitless = 0

    def _wait_for_start(self) -> bool:
        """True once the container runs or ran, False if it will not run any more."""
        with watch_pods(self.connection, self.namespace, name=self.pod) as watch:
            was_seen = False
            while was_seen or not watch.is_synced:
                change = watch.get(timeout_seconds=1.0)
                if change is None:
                    continue
                was_seen = True
                if change.kind == "deleted":
                    return False
                state = _state_of(change.item, self.container)
                if state in ("running", "over", "never"):
                    return state != "never"
        return False

    def _check_was_there(self) -> None:
        if not self.place.num_told:
            where = f"namespace {self.namespace}"
            raise ObjectNotFound(f"read the log of {self.pod}: there is no such pod in {where}.")

    def _pause(self) -> None:
        self.fruitless += 1
        time.sleep(_BACKOFF.delay_seconds(self.fruitless, self.rng))


State = Literal["unborn", "running", "between", "over", "never"]
"""Not started yet, running, about to be started again, ended for good, ended without a start."""


def _state_of(pod: PodView, name: str) -> State:
    container = pod.container(name)
    if container is None:
        return "running"  # the server says what is wrong
    if container.state == "running":
        return "running"
    if container.state == "terminated":
        again = pod.restart_policy == "Always" or (
            pod.restart_policy == "OnFailure" and container.has_failed
        )
        return "between" if again and not pod.is_finished and pod.deleted_at is None else "over"
    if container.restart_count:
        return "over" if pod.is_finished else "between"
    return "never" if pod.is_finished else "unborn"


def _log_line(data: bytes) -> LogLine:
    stamp = _STAMPED.match(data)
    if stamp is None:
        return LogLine(data.decode(errors="replace"), None)
    text = data[stamp.end() :].decode(errors="replace")
    return LogLine(text, seconds_of(stamp[0].decode().strip()))
