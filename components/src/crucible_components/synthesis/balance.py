"""Choosing questions so that no answer of a template is ahead of another.

A model that never looks at the picture then scores no better than chance on every template.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from crucible_components.synthesis.questions import Question, questions_of
from crucible_components.synthesis.scene import Scene, World


class Balancer:
    """Counts what was asked, and refuses answers that are ahead of the rarest of their domain."""

    def __init__(self, *, max_lead: int = 2) -> None:
        self._max_lead = max_lead
        self._answers: dict[str, Counter[str]] = defaultdict(Counter)
        self._categories: Counter[str] = Counter()

    def lead(self, question: Question) -> int:
        """How many more times than the rarest answer of its domain this answer was taken."""
        counts = self._answers[question.template]
        return counts[question.answer] - min(counts[answer] for answer in question.domain)

    def num_asked(self, categories: Sequence[str]) -> int:
        return sum(self._categories[category] for category in categories)

    def take(self, candidates: Sequence[Question], rng: random.Random) -> Question | None:
        """One candidate, counted as asked: of the rarest template, the answer that lags most."""
        allowed = [question for question in candidates if self.lead(question) < self._max_lead]
        if not allowed:
            return None

        def urgency(question: Question) -> tuple[int, int]:
            return self._answers[question.template].total(), self.lead(question)

        least = min(urgency(question) for question in allowed)
        question = rng.choice([each for each in allowed if urgency(each) == least])
        self._answers[question.template][question.answer] += 1
        self._categories[question.category] += 1
        return question


def pick_questions(
    scene: Scene,
    world: World,
    *,
    categories: Sequence[str],
    limit: int,
    balancer: Balancer,
    rng: random.Random,
) -> list[Question]:
    """Up to ``limit`` questions about different facts, the least asked categories first."""
    picked: list[Question] = []
    known: set[str] = set()
    candidates: dict[str, list[Question]] = {}
    while len(picked) < limit:
        order = sorted(categories, key=lambda each: (balancer.num_asked([each]), rng.random()))
        for category in order:
            if category not in candidates:
                candidates[category] = questions_of(category, scene, world, rng)
            open_ones = [each for each in candidates[category] if each.fact not in known]
            question = balancer.take(open_ones, rng)
            if question is not None:
                picked.append(question)
                known.add(question.fact)
                break
        else:
            break
    rng.shuffle(picked)
    return picked
