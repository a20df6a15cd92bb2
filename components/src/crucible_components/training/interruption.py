"""SIGTERM as a flag: the loop ends its step, saves, and then stops."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class Interruption:
    """While the block runs, SIGTERM sets ``requested`` instead of ending the process.

    Signals can be caught in the main thread only; elsewhere this changes nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None
        self._active = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Self:
        if self._active:
            self._previous = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            signal.signal(signal.SIGTERM, self._previous)

    def _request(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True
