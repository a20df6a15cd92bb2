"""A run's journal: documents with one writer each, so that pods and people need no lock.

Pods of a run share nothing but the artifact store, and Kubeflow Pipelines tells neither why a step
failed nor what it wrote. So every attempt of a step writes what happened to it under a prefix of
its own, the command line writes what it asked for, and the state of the run is a fold over all of
it, as the local engine's is over its event log. The events are those of `crucible.engines.events`.

::

    plans/<plan digest>.json                            before a run of the plan is submitted
    journal/<run_id>/kfp/<KFP's run id>.json            which runs of KFP write here
    journal/<run_id>/events/<nanoseconds>-<random>.json of the run: submitted, resumed, released
    journal/<run_id>/steps/<step>/<attempt>/started.json, ended.json
    journal/<run_id>/steps/<step>/<attempt>/events/<part>, log/<part>      `crucible.journal.stream`

Limits: times are those of the machines that wrote; clocks that differ by more than a step takes
show events of different steps out of order, never those of one step.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from crucible.artifacts.backend import Backend, Stored
from crucible.errors import ArtifactCorrupt, UserError
from crucible.journal.stream import StreamReader

Event = Mapping[str, Any]

PREFIX = "journal/"
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
_STEP_KEY = re.compile(r"steps/([^/]+)/(\d+)/(started|ended)\.json\Z")
_READ_THREADS = 16
_STARTED, _ENDED = "started.json", "ended.json"


def plan_key(digest: str) -> str:
    """Key of the plan of that digest, ``sha256:<hex>``."""
    return f"plans/{digest.removeprefix('sha256:')}.json"


def step_key(step_id: str) -> str:
    """``trial[3]`` as a part of a key: ``trial.3``. Step names have no dot."""
    return step_id.replace("[", ".").removesuffix("]")


def step_id_of(key: str) -> str:
    """Inverse of `step_key`."""
    name, dot, index = key.partition(".")
    return f"{name}[{index}]" if dot else key


@dataclass(frozen=True)
class AttemptJournal:
    """Where one attempt of one step writes. It is the only writer."""

    backend: Backend
    prefix: str
    """Ends in ``/``."""
    step_id: str
    attempt: int

    @property
    def log_prefix(self) -> str:
        return f"{self.prefix}log/"

    @property
    def events_prefix(self) -> str:
        return f"{self.prefix}events/"

    def start(self, **fields: object) -> Event:
        """Say that the attempt runs."""
        return self._write(_STARTED, "step.started", fields)

    def end(self, type_: str = "step.ended", **fields: object) -> Event:
        """Say how it ended; ``step.retrying`` if another attempt follows."""
        return self._write(_ENDED, type_, fields)

    def ended(self) -> Event | None:
        """How it ended, or None."""
        return _read_json(self.backend, f"{self.prefix}{_ENDED}")

    def _write(self, name: str, type_: str, fields: Mapping[str, object]) -> Event:
        event = {
            "time": time.time(),
            "type": type_,
            "step": self.step_id,
            "attempt": self.attempt,
            **fields,
        }
        self.backend.write(f"{self.prefix}{name}", json.dumps(event).encode())
        return event


@dataclass
class Journal:
    """One run's journal, for writing and for reading what is new since the last look."""

    backend: Backend
    run_id: str
    _known: dict[str, Event] = field(default_factory=dict)
    """Documents that were read, by key: none is ever changed."""

    def __post_init__(self) -> None:
        if not _RUN_ID.match(self.run_id):
            raise UserError(
                f"run id {self.run_id!r}: use letters, digits, '.', '_' and '-', at most 128."
            )

    @property
    def prefix(self) -> str:
        return f"{PREFIX}{self.run_id}/"

    def claim(self, kfp_run_id: str, **fields: object) -> None:
        """Let that run of KFP write here."""
        document = {"time": time.time(), "kfp_run_id": kfp_run_id, **fields}
        self.backend.write(self._claim_key(kfp_run_id), json.dumps(document).encode())

    def is_claimed_by(self, kfp_run_id: str) -> bool:
        return self.backend.read(self._claim_key(kfp_run_id)) is not None

    def has_begun(self) -> bool:
        """True if anything was written under this id."""
        return any(True for _ in self.backend.listing(self.prefix))

    def claims(self) -> list[Event]:
        """The runs of KFP that write here, oldest first."""
        keys = [item.key for item in self.backend.listing(f"{self.prefix}kfp/")]
        self._read_new(keys)
        return sorted((self._known[key] for key in keys if key in self._known), key=_time)

    def read_stored_plan(self, digest: str) -> bytes | None:
        """The JSON of a plan, or None if it was never submitted from this store."""
        document = self.backend.read(plan_key(digest))
        return None if document is None else document.data

    def append(self, type_: str, **fields: object) -> Event:
        """Record an event of the run as a whole."""
        now = time.time_ns()
        event = {"time": now / 1e9, "type": type_, **fields}
        key = f"{self.prefix}events/{now:020d}-{secrets.token_hex(4)}.json"
        self.backend.write(key, json.dumps(event).encode())
        return event

    def attempt(self, step_id: str, attempt: int) -> AttemptJournal:
        """The part of one attempt."""
        prefix = f"{self._step_prefix(step_id)}{attempt:04d}/"
        return AttemptJournal(self.backend, prefix, step_id, attempt)

    def attempts(self, step_id: str) -> list[int]:
        """The attempts that have begun, in order."""
        prefix = self._step_prefix(step_id)
        keys = (item.key.removeprefix(prefix) for item in self.backend.listing(prefix))
        numbers = {int(key.partition("/")[0]) for key in keys if key.endswith(f"/{_STARTED}")}
        return sorted(numbers)

    def log(self, step_id: str, attempt: int) -> StreamReader:
        """What that attempt wrote to its log."""
        return StreamReader(self.backend, self.attempt(step_id, attempt).log_prefix)

    def step_events(self, step_id: str, attempt: int) -> StreamReader:
        """The lines of that attempt's event file: progress, metrics, params, tags."""
        return StreamReader(self.backend, self.attempt(step_id, attempt).events_prefix)

    def events(self) -> list[Event]:
        """All events so far, in the order of their times; only new documents are read."""
        keys = [item.key for item in self.backend.listing(self.prefix) if self._is_event(item)]
        self._read_new(keys)
        events = [self._known[key] for key in keys if key in self._known]
        return sorted(events, key=_order)

    def outputs(self, step_ids: Iterable[str]) -> dict[str, dict[str, str]]:
        """Manifest digest by output name of each of these steps that has ended well."""
        found: dict[str, dict[str, str]] = {}
        with ThreadPoolExecutor(_READ_THREADS, "journal") as pool:
            wanted = list(step_ids)
            for step_id, outputs in zip(wanted, pool.map(self._outputs_of, wanted), strict=True):
                if outputs is not None:
                    found[step_id] = outputs
        return found

    def _outputs_of(self, step_id: str) -> dict[str, str] | None:
        for number in reversed(self.attempts(step_id)):
            ended = self.attempt(step_id, number).ended()
            if ended is not None and ended.get("status") in ("succeeded", "cached"):
                return dict(ended["outputs"])
        return None

    def _claim_key(self, kfp_run_id: str) -> str:
        return f"{self.prefix}kfp/{kfp_run_id}.json"

    def _step_prefix(self, step_id: str) -> str:
        return f"{self.prefix}steps/{step_key(step_id)}/"

    def _is_event(self, item: Stored) -> bool:
        name = item.key.removeprefix(self.prefix)
        return name.startswith("events/") or _STEP_KEY.match(name) is not None

    def _read_new(self, keys: Iterable[str]) -> None:
        new = [key for key in keys if key not in self._known]
        with ThreadPoolExecutor(_READ_THREADS, "journal") as pool:
            read = pool.map(lambda key: _read_json(self.backend, key), new)
            for key, event in zip(new, read, strict=True):
                if event is not None:
                    self._known[key] = event


def run_ids(backend: Backend) -> Iterator[str]:
    """The runs that have a journal here, in no order. Lists the whole journal."""
    seen: set[str] = set()
    for item in backend.listing(PREFIX):
        run_id = item.key.removeprefix(PREFIX).partition("/")[0]
        if run_id not in seen:
            seen.add(run_id)
            yield run_id


def _time(event: Event) -> float:
    return float(event["time"])


def _order(event: Event) -> tuple[float, int, int]:
    """By time; what one step did stays in its own order however clocks differ."""
    rank = 1 if event["type"] in ("step.ended", "step.retrying") else 0
    return float(event["time"]), int(event.get("attempt", 0)), rank


def _read_json(backend: Backend, key: str) -> Event | None:
    document = backend.read(key)
    if document is None:
        return None
    try:
        value = json.loads(document.data)
        if isinstance(value, dict):
            return value
    except ValueError:
        pass
    raise ArtifactCorrupt(
        f"{backend.place(key)} is damaged: it is no JSON object. Remove it; the step that wrote it "
        "counts as not run, and `platformctl resume` runs it again."
    )
