"""A step's event file: one JSON object a line, written by the step, relayed by the engine.

An event is one ``write`` on a descriptor opened for appending, so a reader sees whole lines but for
a last one torn by a kill or a full disk. Nothing is synced: events are for watching, the outputs
are what a step is about.

Numbers that JSON cannot carry are refused, not mended: a NaN loss means that the outputs are
worthless, and a step that goes on for hours after it helps nobody. A component that expects
infinities (a loss scaler) leaves them out of what it logs.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MIN_PROGRESS_INTERVAL_SECONDS = 0.5

_NAME = re.compile(r"[\w./ :-]+")
"""What MLflow accepts as the name of a metric, param or tag."""


class EventWriter:
    """Progress and tracking sinks of one step attempt. Threads may share it."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._torn = False
        self._progress_written_at = -math.inf
        self._pending_progress: dict[str, object] | None = None

    def update(
        self, done: float, total: float | None = None, *, unit: str = "steps", message: str = ""
    ) -> None:
        """Progress event; dropped if one was written in the last half second and it is no end."""
        event: dict[str, object] = {
            "done": _number("progress done", done),
            "total": None if total is None else _number("progress total", total),
            "unit": unit,
            "message": message,
        }
        now = time.monotonic()
        at_end = total is not None and done >= total
        with self._lock:
            if not at_end and now - self._progress_written_at < MIN_PROGRESS_INTERVAL_SECONDS:
                self._pending_progress = event
                return
            self._progress_written_at = now
            self._pending_progress = None
            self._append("progress", event)

    def log_metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Metrics at one training step.

        Raises:
            ValueError: a name MLflow would refuse, or a value that is no finite number.
        """
        numbers = {_name(name): _number(f"metric {name!r}", v) for name, v in values.items()}
        with self._lock:
            self._append("metrics", {"step": int(step), "values": numbers})

    def log_params(self, values: Mapping[str, str | int | float | bool]) -> None:
        """Params of the step's run.

        Raises:
            ValueError: a name MLflow would refuse, or a value that is no text, number or boolean.
        """
        params = {_name(name): _param(name, value) for name, value in values.items()}
        with self._lock:
            self._append("params", {"values": params})

    def set_tags(self, values: Mapping[str, str]) -> None:
        """Tags of the step's run.

        Raises:
            ValueError: a name MLflow would refuse.
        """
        tags = {_name(name): str(value) for name, value in values.items()}
        with self._lock:
            self._append("tags", {"values": tags})

    def close(self) -> None:
        """Write the last progress if it was held back, and release the file."""
        with self._lock:
            if self._pending_progress is not None:
                self._append("progress", self._pending_progress)
                self._pending_progress = None
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def _append(self, kind: str, fields: Mapping[str, object]) -> None:
        event = {"time": round(self._clock(), 3), "type": kind, **fields}
        line = json.dumps(event, allow_nan=False).encode() + b"\n"
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if self._torn:  # close the half line that a full disk left, so that this one stays whole
            line = b"\n" + line
        self._torn = True
        self._torn = os.write(self._descriptor, line) < len(line)


def read_events(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Events after byte ``offset``, and the offset to go on from.

    A last line without its end is left for the next call; a whole line that is no event (torn by a
    full disk) is skipped with a warning. A missing file has no events.
    """
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            data = stream.read()
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    events = []
    for line in whole.splitlines():
        event = _parse(line)
        if event is not None:
            events.append(event)
        elif line:
            logger.warning("%s: skipped a line that is no event: %r", path, line[:80])
    return events, offset + len(whole)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "type" in event else None


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name for tracking: use letters, digits and any of _ - . / : space."
        )
    return name


def _number(what: str, value: float) -> float:
    if isinstance(value, str):
        raise ValueError(f"{what} is the text {value!r}. Pass a number.")
    number = value if type(value) is int else float(value)  # float(): numpy and torch scalars
    if not math.isfinite(number):
        raise ValueError(
            f"{what} is {number}. Only finite numbers can be logged: stop when a loss is not "
            "finite, or leave this value out."
        )
    return number


def _param(name: str, value: str | int | float | bool) -> str | int | float | bool:
    return value if isinstance(value, (str, bool)) else _number(f"param {name!r}", value)
