"""What a running attempt tells of itself, from its event file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from crucible.engines.state import Progress


@dataclass
class LiveStep:
    """A fold over the events of one attempt: how far it is, and its newest numbers."""

    progress: Progress | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def take(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take more events in; kinds that say nothing of this change nothing."""
        for event in events:
            if event["type"] == "progress":
                self.progress = Progress(
                    event["done"], event["total"], event["unit"], event["message"]
                )
            elif event["type"] == "metrics":
                self.metrics.update(event["values"])
