"""When a step that failed for now is tried again by its own process.

In a pod nobody else can: the cluster's retry sees no exit codes, so it cannot tell a busy service
from a wrong setting. Locally the engine retries and leaves ``CRUCIBLE_RETRY_LIMIT`` unset.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from crucible.errors import Problem, UserError

_NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class Backoff:
    """How often to try again, and how long to wait before."""

    limit: int = 0
    """Tries after the first."""
    first_seconds: float = 10.0
    factor: float = 2.0
    max_seconds: float = 300.0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Backoff:
        """Read ``CRUCIBLE_RETRY_LIMIT``, ``…_BACKOFF_SECONDS``, ``…_FACTOR``, ``…_MAX_SECONDS``.

        Raises:
            UserError: one of them is no number of its kind, or negative.
        """
        problems: list[Problem] = []

        def read(suffix: str, default: float) -> float:
            name = f"CRUCIBLE_RETRY_{suffix}"
            text = environ.get(name, str(default))
            value = float(text) if _NUMBER.fullmatch(text) else -1.0
            if value < 0 or (isinstance(default, int) and not value.is_integer()):
                kind = "whole number" if isinstance(default, int) else "number"
                problems.append(Problem(name, f"got {text!r}.", f"Set a {kind} ≥ 0."))
            return value

        backoff = cls(
            limit=int(read("LIMIT", cls.limit)),
            first_seconds=read("BACKOFF_SECONDS", cls.first_seconds),
            factor=read("FACTOR", cls.factor),
            max_seconds=read("MAX_SECONDS", cls.max_seconds),
        )
        if problems:
            raise UserError("\n".join(map(str, problems)), problems)
        return backoff

    def delay_seconds(self, tries: int, rng: random.Random) -> float:
        """The wait after ``tries`` failed tries: exponential, capped, up to a quarter less.

        The jitter keeps steps that failed together from coming back together.
        """
        full = min(self.max_seconds, self.first_seconds * self.factor ** (tries - 1))
        return full * rng.uniform(0.75, 1.0)
