"""From steps to pods: a step alone, a chain of steps that share a pod, a fan-out as a loop.

A pod costs 10 to 20 s in Kubeflow Pipelines, and a task of its own 11 to 20 KB in the Workflow
object, which may have 1.5 MB. So a fan-out is a loop over small items, and chains may be joined.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from crucible.plan.model import Plan, PlanStep, StepOutput

MAX_CHAIN_STEPS = 20
"""What one pod runs in a row: its parameters have to fit into one argument."""


@dataclass(frozen=True)
class Unit:
    """What becomes one task of KFP."""

    name: str
    """Key of the task: the step's name; of a chain, that of its last step."""
    steps: tuple[PlanStep, ...]
    """One; the members of a chain in order; or the items of a fan-out."""
    is_fan_out: bool = False

    @property
    def first(self) -> PlanStep:
        return self.steps[0]

    @property
    def is_chain(self) -> bool:
        return len(self.steps) > 1 and not self.is_fan_out

    @property
    def step_ids(self) -> frozenset[str]:
        return frozenset(step.id for step in self.steps)


def units_of(plan: Plan, *, left_out: frozenset[str] = frozenset(), chain: bool) -> list[Unit]:
    """The pods of ``plan``'s steps, in an order in which each stands after what it needs.

    Args:
        plan: the plan.
        left_out: ids of steps whose outputs are there already.
        chain: join chains.
    """
    steps = [step for step in plan.steps if step.id not in left_out]
    grouped = itertools.groupby(steps, key=lambda step: step.name)
    units = [_unit(name, tuple(members)) for name, members in grouped]
    return list(_chained(units, _needed_by(plan))) if chain else units


def unit_of_step(units: Iterable[Unit]) -> dict[str, Unit]:
    """By step id, the pod that runs it."""
    return {step.id: unit for unit in units for step in unit.steps}


def dependencies(unit: Unit, by_step: Mapping[str, Unit]) -> list[str]:
    """Names of the units that ``unit`` waits for; steps that are left out are nobody's."""
    wanted = (other for step in unit.steps for other in step.after)
    found = (by_step[step_id].name for step_id in wanted if step_id in by_step)
    return [name for name in dict.fromkeys(found) if name != unit.name]


def _unit(name: str, steps: tuple[PlanStep, ...]) -> Unit:
    return Unit(name, steps, is_fan_out=steps[0].id != name)


def _needed_by(plan: Plan) -> Counter[str]:
    """How many steps wait for each; more than one reader ends a chain."""
    return Counter(other for step in plan.steps for other in step.after)


def _chained(units: Iterable[Unit], needed_by: Mapping[str, int]) -> Iterator[Unit]:
    """``units`` with each run of joinable ones as one."""
    waiting: dict[str, Unit] = {}
    """By the id of its last step: chains that may go on."""
    order: list[Unit] = []
    for unit in units:
        head = _head_for(unit, waiting, needed_by)
        joined = unit
        if head is not None:
            order.remove(head)
            del waiting[head.steps[-1].id]
            joined = Unit(unit.name, (*head.steps, *unit.steps))
        order.append(joined)
        if not unit.is_fan_out:
            waiting[joined.steps[-1].id] = joined
    yield from order


def _head_for(unit: Unit, waiting: Mapping[str, Unit], needed_by: Mapping[str, int]) -> Unit | None:
    """The chain that ``unit`` continues: it waits for that alone, and nobody else does."""
    step = unit.first
    if unit.is_fan_out or step.when or len(step.after) != 1 or needed_by[step.after[0]] != 1:
        return None
    head = waiting.get(step.after[0])
    if head is None or len(head.steps) >= MAX_CHAIN_STEPS or not _alike(head.steps[-1], step):
        return None
    return head


def _alike(one: PlanStep, other: PlanStep) -> bool:
    """True if both may run in one pod: small, of one image and pool, and with equal rules."""
    small = all(step.resources.gpus == 0 and step.resources.nodes == 1 for step in (one, other))
    rules = [(s.image, s.resources.pool, s.retry, s.timeout_minutes) for s in (one, other)]
    return small and rules[0] == rules[1]


def outputs_read(step: PlanStep) -> Iterator[tuple[str, int, StepOutput]]:
    """Slot, position in it, and source, of every input that another step of the plan writes."""
    for slot in step.inputs:
        for position, source in enumerate(slot.sources):
            if isinstance(source, StepOutput):
                yield slot.slot, position, source
