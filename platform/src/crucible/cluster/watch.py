"""`Watch`: all objects of a collection and every change after, without gaps and without repeats.

One list, then one long request at a time that starts at the version after the last change seen. A
request that breaks, ends or says nothing for too long is followed by another from the same place.
If the cluster no longer knows that version, everything is listed again and only what differs is
told. Between two requests there is a pause that grows while they bring nothing: no server is
polled in a storm.
"""

from __future__ import annotations

import contextlib
import json
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from crucible.cluster.connection import Connection
from crucible.cluster.lines import lines_of
from crucible.cluster.wire import Json, Query
from crucible.errors import VersionGone
from crucible.sdk.retry import Backoff

if TYPE_CHECKING:
    import urllib3

ViewT = TypeVar("ViewT")
ChangeKind = Literal["added", "modified", "deleted"]
_KINDS: dict[str, ChangeKind] = {"ADDED": "added", "MODIFIED": "modified", "DELETED": "deleted"}
_MAX_WAITING = 1000
"""Changes that the consumer has not fetched yet; then the server has to wait."""


@dataclass(frozen=True)
class WatchPace:
    """How long the requests of a watch last, and the pauses between them."""

    request_seconds: int = 300
    """The server ends each request after about this time."""
    idle_seconds: float = 90.0
    """Silence after which a connection counts as dead; servers send a bookmark each minute."""
    settled_seconds: float = 5.0
    """A request that lasted this long, or brought a change, was worth its while."""
    backoff: Backoff = Backoff(first_seconds=0.25, max_seconds=30.0)  # noqa: RUF009 - it is frozen


@dataclass(frozen=True)
class Change(Generic[ViewT]):
    """One object as it is now, or was when it went away."""

    kind: ChangeKind
    item: ViewT


class Watch(Generic[ViewT]):
    """Iterates over changes until it is closed. A thread of its own does the reading.

    Use as a context manager. The first changes are what is there, as ``added``.
    """

    def __init__(
        self,
        connection: Connection,
        action: str,
        path: str,
        query: Query | None = None,
        *,
        view: Callable[[Json], ViewT],
        pace: WatchPace | None = None,
    ) -> None:
        """Watch a collection.

        Args:
            connection: the cluster.
            action: what is watched, for messages, e.g. ``watch pods of run 12``.
            path: of the collection.
            query: selects objects.
            view: makes of each what the consumer gets.
            pace: of the requests.
        """
        self._connection = connection
        self._action = action
        self._path = path
        self._query = dict(query or {})
        self._view = view
        self._pace = pace or WatchPace()
        self._waiting: queue.Queue[Change[ViewT] | Exception | None] = queue.Queue(_MAX_WAITING)
        self._known: dict[str, Json] = {}
        self._stopped = threading.Event()
        self._response: urllib3.BaseHTTPResponse | None = None
        self._is_synced = False
        self._thread = threading.Thread(target=self._run, name=action, daemon=True)

    @property
    def is_synced(self) -> bool:
        """Whether all that was there at the start has been fetched."""
        return self._is_synced

    def __enter__(self) -> Watch[ViewT]:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Change[ViewT]]:
        while not self._stopped.is_set():
            change = self.get(timeout_seconds=1.0)
            if change is not None:
                yield change

    def get(self, *, timeout_seconds: float) -> Change[ViewT] | None:
        """The next change, or None if there was none in time, or the watch is closed.

        Raises:
            CrucibleError: as `Connection.call`; the watch has ended.
        """
        deadline = time.monotonic() + timeout_seconds
        while not self._stopped.is_set():
            try:
                item = self._waiting.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if isinstance(item, Exception):
                self.close()
                raise item
            if item is not None:
                return item
            self._is_synced = True
        return None

    def close(self) -> None:
        """End the watch; another thread may call this. Does not wait for the server."""
        self._stopped.set()
        response = self._response
        if response is not None:
            # Wakes the reading thread, which then closes the connection itself.
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                response.shutdown()

    def _run(self) -> None:
        try:
            version, fruitless, rng = "", 0, random.Random()
            while not self._stopped.is_set():
                started = time.monotonic()
                try:
                    version, num_changes = self._follow(version or self._list())
                except VersionGone:
                    version, num_changes = "", 0
                settled = time.monotonic() - started >= self._pace.settled_seconds
                fruitless = 1 if num_changes or settled else fruitless + 1
                self._stopped.wait(self._pace.backoff.delay_seconds(fruitless, rng))
        except Exception as error:
            self._put(error)

    def _list(self) -> str:
        """Tell what differs from what is known; returns the version of the list."""
        items, version = self._connection.items(self._action, self._path, self._query)
        found = {str(item["metadata"]["uid"]): item for item in items}
        for uid in self._known.keys() - found.keys():
            self._put(Change("deleted", self._view(self._known.pop(uid))))
        for uid, item in found.items():
            known = self._known.get(uid)
            if known is None or _version(known) != _version(item):
                self._known[uid] = item
                self._put(Change("added" if known is None else "modified", self._view(item)))
        self._put(None)
        return version

    def _follow(self, version: str) -> tuple[str, int]:
        """Tell changes after ``version`` until the request ends; the last version, and how many."""
        query = {
            **self._query,
            "watch": True,
            "allowWatchBookmarks": True,
            "resourceVersion": version,
            "timeoutSeconds": self._pace.request_seconds,
        }
        num_changes = 0
        idle_seconds = self._pace.idle_seconds
        response = self._connection.open(self._action, self._path, query, read_seconds=idle_seconds)
        self._response = response  # from now on `close` ends it; before, the next line does
        with contextlib.closing(response):
            for event in () if self._stopped.is_set() else _events(response):
                item = event["object"]
                if event["type"] == "ERROR":
                    raise VersionGone(f"{self._action}: {item.get('message')}")
                version = _version(item)
                if event["type"] in _KINDS:
                    num_changes += 1
                    self._tell(_KINDS[event["type"]], item)
        return version, num_changes

    def _tell(self, kind: ChangeKind, item: Json) -> None:
        uid = str(item["metadata"]["uid"])
        if kind == "deleted":
            self._known.pop(uid, None)
        else:
            self._known[uid] = item
        self._put(Change(kind, self._view(item)))

    def _put(self, item: Change[ViewT] | Exception | None) -> None:
        while not self._stopped.is_set():
            try:
                self._waiting.put(item, timeout=0.5)
            except queue.Full:
                continue
            return


def _events(response: urllib3.BaseHTTPResponse) -> Iterator[Json]:
    """Events up to the end of the answer, or to where it breaks off."""
    for line in lines_of(response):
        try:
            event: Json = json.loads(line.data)
        except ValueError:  # half of an event: it comes again
            return
        yield event


def _version(item: Json) -> str:
    return str(item["metadata"]["resourceVersion"])
