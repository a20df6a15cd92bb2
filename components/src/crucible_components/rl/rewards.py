"""Verifiable rewards: each a plain rule that a machine can check, with examples that prove it.

A reward returns a number, or None where it cannot tell: an unscorable answer must not count as
wrong. Torch-free, so that rules can be tried anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from crucible_components.data.answers import normalise_answer


@dataclass(frozen=True)
class Attempt:
    """One sampled answer and what is known about its question."""

    text: str
    """The answer without special tokens."""
    num_tokens: int
    """Length, end token included."""
    ended: bool
    """False if the answer was cut at the limit."""
    expected: str | None
    """The record's answer; None if it has none."""
    max_tokens: int
    """Where answers are cut."""
    overlong_cache_tokens: int
    """Length of the stretch before the limit in which the overlong penalty grows."""


RewardFunction = Callable[[Attempt], float | None]


@dataclass(frozen=True)
class Reward:
    """A rule and examples of it."""

    function: RewardFunction
    examples: tuple[tuple[Attempt, float | None], ...]

    def check(self) -> None:
        """Score the examples.

        Raises:
            AssertionError: one scores differently.
        """
        for attempt, expected in self.examples:
            actual = self.function(attempt)
            if actual != expected:
                raise AssertionError(f"{attempt} scores {actual}, the example says {expected}")


def exact_match(attempt: Attempt) -> float | None:
    """1 if the answer is the expected one after `normalise_answer`; None if none is known."""
    wanted = normalise_answer(attempt.expected or "")
    if not wanted:
        return None
    return float(normalise_answer(attempt.text) == wanted)


def single_line(attempt: Attempt) -> float:
    """1 for one non-empty line, ended by the model, without outer spaces; else 0."""
    text = attempt.text
    is_line = bool(text) and text == text.strip() and len(text.splitlines()) == 1
    return float(is_line and attempt.ended)


def soft_overlong(attempt: Attempt) -> float:
    """0 up to the cache, then falling linearly to -1 at the limit.

    Source: DAPO, arXiv:2503.14476, equation 13.
    """
    free_tokens = attempt.max_tokens - attempt.overlong_cache_tokens
    over = max(0, attempt.num_tokens - free_tokens) / attempt.overlong_cache_tokens
    return 0.0 - min(1.0, over)


def _example(text: str, *, expected: str | None = "two", num_tokens: int = 2) -> Attempt:
    return Attempt(
        text=text,
        num_tokens=num_tokens,
        ended=num_tokens < 16,
        expected=expected,
        max_tokens=16,
        overlong_cache_tokens=4,
    )


REWARDS: Mapping[str, Reward] = {
    "exact_match": Reward(
        exact_match,
        (
            (_example("two"), 1.0),
            (_example(" Two.\n"), 1.0),
            (_example('"two"'), 1.0),
            (_example("two two"), 0.0),
            (_example("twofold"), 0.0),
            (_example("one or two"), 0.0),
            (_example(""), 0.0),
            (_example("two", expected=None), None),
            (_example("two", expected=" . "), None),
        ),
    ),
    "format": Reward(
        single_line,
        (
            (_example("two"), 1.0),
            (_example("two red circles"), 1.0),
            (_example(""), 0.0),
            (_example("two\nthree"), 0.0),
            (_example("two", num_tokens=16), 0.0),
        ),
    ),
    "overlong": Reward(
        soft_overlong,
        (
            (_example("two"), 0.0),
            (_example("two", num_tokens=12), 0.0),
            (_example("two", num_tokens=13), -0.25),
            (_example("two", num_tokens=15), -0.75),
            (_example("two", num_tokens=16), -1.0),
        ),
    ),
}
"""By the name of their weight in `RewardWeights`."""


@dataclass(frozen=True)
class ScoredAttempt:
    """Rewards of one attempt by name, and their weighted sum."""

    values: Mapping[str, float | None]
    total: float | None
    """None if any reward in use could not tell: the others alone would compare unlike things."""


def score_attempt(attempt: Attempt, weights: Mapping[str, float]) -> ScoredAttempt:
    """Score with every reward whose weight is not 0."""
    values = {
        name: REWARDS[name].function(attempt) for name, weight in weights.items() if weight != 0.0
    }
    total = 0.0
    for name, value in values.items():
        if value is None:
            return ScoredAttempt(values, None)
        total += weights[name] * value
    return ScoredAttempt(values, total)
