"""`compile_plan`: a plan as a pipeline of KFP, in its IR and the Kubernetes platform document.

The pipeline holds all that its pods need but two things, which only the store can hold: the plan,
for the record and the release, and what the steps write to each other.

::

    root ─ steps and release                a plan without an exit step, on a cluster without MLflow
    root ─ run ─ steps and release          on-exit runs after `run`, whatever happened
         └ on-exit
    root ─ run ─ steps ─ …                  with conditions: a step that is skipped must not keep
         └ on-exit  └ release               the release from running, so the steps are a level
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crucible.engines.kfp import ir
from crucible.engines.kfp.closing import exit_steps, release_step
from crucible.engines.kfp.containers import Containers
from crucible.engines.kfp.names import EXIT_TASK, RUN_TASK, STEPS_TASK
from crucible.engines.kfp.podspec import (
    compared_metrics,
    condition_cel,
    item_text,
    parameter_name,
    step_json,
)
from crucible.engines.kfp.trainjob import trainjob_json
from crucible.engines.kfp.units import Unit, dependencies, outputs_read, unit_of_step, units_of
from crucible.plan.model import Condition, MetricRef, Plan, PlanStep
from crucible.sdk.pod.braces import quoted
from crucible.specs.context import ContextDocument

Json = dict[str, Any]

MAX_ITEMS_BYTES = 60_000
"""Of one loop: the driver gets the task as one argument, and Linux allows 128 KiB for one."""
_ITEM = "item"
_RETRY_WINDOW = "2592000s"
"""``backoffMaxDuration`` is no bound on a wait. Argo counts it from the start of the first attempt,
tries nothing again after it, and ends a retry that still runs then; without one it retries nothing.
"""


@dataclass(frozen=True)
class Options:
    """How to compile, besides what plan and context say."""

    done: frozenset[str] = frozenset()
    """Ids of steps that are left out: the journal has their outputs, or they are skipped.
    Conditions on them hold."""
    fresh: frozenset[str] = frozenset()
    """Ids of steps that look nothing up in the cache."""
    imports: Mapping[str, str] = field(default_factory=dict)
    """Manifest digest by import URI."""


def compile_plan(
    plan: Plan, context: ContextDocument, options: Options | None = None
) -> ir.Document:
    """The pipeline of ``plan`` on the cluster of ``context``.

    Raises:
        UserError: the plan cannot run there; names everything that is in the way.
    """
    return _Compiler(plan, context, options or Options()).document()


class _Compiler:
    """One compilation."""

    def __init__(self, plan: Plan, context: ContextDocument, options: Options) -> None:
        self._plan = plan
        self._context = context
        self._options = options
        self._plan_digest = plan.digest
        self._compared_of: dict[str, dict[str, MetricRef]] = compared_metrics(plan)
        self._document = ir.Document(plan.name, plan.description, ir.sdk_version())
        self._images = {str(name): image for name, image in context.images.items()}
        self._containers = Containers(context, self._document)
        self._units = units_of(plan, left_out=options.done, chain=context.chain_steps)
        self._by_step = unit_of_step(self._units)
        self._tasks: dict[str, list[str]] = {}
        """Names of a unit's tasks: a large fan-out is several loops."""
        self._fan_outs: dict[str, int] = {}
        for step in plan.steps:
            if step.id != step.name:
                self._fan_outs[step.name] = self._fan_outs.get(step.name, 0) + 1

    def document(self) -> ir.Document:
        steps = ir.Dag()
        for unit in self._units:
            self._add_unit(steps, unit)
        level = self._with_release(steps)
        if self._plan.on_exit is None and self._context.mlflow is None:
            self._document.root = level
        else:
            self._nest(self._document.root, RUN_TASK, level)
            self._add_exit(self._document.root)
        self._containers.check()
        return self._document

    def _with_release(self, steps: ir.Dag) -> ir.Dag:
        """``steps`` and the release behind them; where nothing is left to run, only that."""
        if self._plan.release is None:
            return steps
        level, after = steps, list(steps.tasks)
        if steps.tasks and any(step.when for step in self._plan.steps):
            level, after = ir.Dag(), [STEPS_TASK]
            self._nest(level, STEPS_TASK, steps)
        step = release_step(self._plan, self._images)
        unit = Unit(step.id, (step,))
        level.tasks[unit.name] = self._task(unit, self._component(unit), after=after)
        return level

    def _add_exit(self, root: ir.Dag) -> None:
        unit = Unit(EXIT_TASK, exit_steps(self._plan, self._images))
        made = self._task(unit, self._component(unit), after=list(root.tasks))
        made["triggerPolicy"] = {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
        root.tasks[unit.name] = made

    def _nest(self, parent: ir.Dag, name: str, child: ir.Dag) -> None:
        self._document.components[f"comp-{name}"] = child.component()
        run_id = {ir.RUN_ID: ir.from_above(ir.RUN_ID)}
        parent.tasks[name] = ir.task(name, component=f"comp-{name}", parameters=run_id)

    def _add_unit(self, level: ir.Dag, unit: Unit) -> None:
        after = [task for name in dependencies(unit, self._by_step) for task in self._tasks[name]]
        if unit.is_fan_out:
            self._add_fan_out(level, unit, after)
            return
        made = self._task(unit, self._component(unit), after=after)
        self._conditions(made, unit)
        level.tasks[unit.name] = made
        self._tasks[unit.name] = [unit.name]

    def _component(self, unit: Unit) -> str:
        """Define the component and the executor of ``unit``; returns the component's name."""
        parameters = {name: ir.parameter(kind) for name, (kind, _) in self._values(unit).items()}
        compared = () if unit.is_fan_out else self._compared(unit)
        definition: Json = {
            "executorLabel": f"exec-{unit.name}",
            "inputDefinitions": {
                "parameters": {
                    ir.RUN_ID: ir.parameter("STRING"),
                    **parameters,
                    **{name: ir.parameter("NUMBER_DOUBLE") for name in compared},
                    **({_ITEM: ir.parameter("STRING")} if unit.is_fan_out else {}),
                },
            },
        }
        lineage = dict(self._lineage(unit))
        if lineage:
            kinds = {name: kind for name, (kind, _) in lineage.items()}
            definition["inputDefinitions"]["artifacts"] = {
                name: ir.artifact(kind, optional=True) for name, kind in kinds.items()
            }
        self._add_outputs(definition, unit)
        name = f"comp-{unit.name}"
        self._document.components[name] = definition
        self._containers.add(unit)
        return name

    def _add_outputs(self, definition: Json, unit: Unit) -> None:
        artifacts: Json = {}
        for step in unit.steps[: 1 if unit.is_fan_out else None]:
            prefix = f"{step.id}." if unit.is_chain else ""
            found = ir.output_artifacts(step.outputs)
            artifacts |= {f"{prefix}{name}": kind for name, kind in found.items()}
        outputs: Json = {"artifacts": artifacts} if artifacts else {}
        emitted = [name for step in unit.steps for name in self._compared_of.get(step.id, ())]
        if emitted:
            outputs["parameters"] = {name: ir.parameter("NUMBER_DOUBLE") for name in emitted}
        if outputs:
            definition["outputDefinitions"] = outputs

    def _task(self, unit: Unit, component: str, *, after: Sequence[str]) -> Json:
        values = {name: ir.constant(value) for name, (_, value) in self._values(unit).items()}
        parameters = {ir.RUN_ID: ir.from_above(ir.RUN_ID), **values}
        lineage = dict(self._lineage(unit))
        made = ir.task(
            unit.name,
            component=component,
            parameters=parameters,
            artifacts={name: place for name, (_, place) in lineage.items()},
            after=after,
        )
        if self._context.step_retries:
            made["retryPolicy"] = {
                "maxRetryCount": self._context.step_retries,
                "backoffDuration": "5s",
                "backoffFactor": 2.0,
                "backoffMaxDuration": _RETRY_WINDOW,
            }
        return made

    def _conditions(self, made: Json, unit: Unit) -> None:
        conditions = self._open_conditions(unit)
        if conditions:
            made["triggerPolicy"] = {"condition": condition_cel(conditions)}
        for condition in conditions:
            producer = self._by_step[condition.left.step_id]
            name = parameter_name(condition.left)
            made["inputs"]["parameters"][name] = ir.output_parameter(producer.name, name)

    def _open_conditions(self, unit: Unit) -> list[Condition]:
        """Those that KFP has to decide."""
        return [c for c in unit.first.when if c.left.step_id not in self._options.done]

    def _compared(self, unit: Unit) -> list[str]:
        """Names of the parameters that the conditions of ``unit`` compare."""
        return [parameter_name(c.left) for c in self._open_conditions(unit)]

    def _values(self, unit: Unit) -> dict[str, tuple[str, Any]]:
        """Type and value of the parameters that are known now."""
        values: dict[str, tuple[str, Any]] = {
            "kfp_run_id": ("STRING", ir.KFP_RUN_ID),
            "plan": ("STRING", self._plan_digest),
        }
        if unit.is_chain:
            members = [self._member(step) for step in unit.steps]
            return values | {"chain": ("LIST", members)}
        first = unit.first
        if first.resources.nodes > 1:
            values["trainjob"] = ("STRUCT", trainjob_json(self._context, first))
        return values | {
            "step": ("STRUCT", self._json(first)),
            "config": ("STRUCT", quoted(first.config)),
        }

    def _member(self, step: PlanStep) -> Json:
        """A step with its settings, as pods take them apart."""
        return {**self._json(step), "config": quoted(step.config)}

    def _json(self, step: PlanStep) -> Json:
        return step_json(
            step,
            imports=self._options.imports,
            fresh=step.id in self._options.fresh,
            parameters=self._compared_of.get(step.id, {}),
            fan_outs=self._fan_outs,
        )

    def _lineage(self, unit: Unit) -> Iterable[tuple[str, tuple[Any, Json]]]:
        """What KFP's pages shall draw as inputs: type and place, by a name of its own.

        The step reads nothing of it. What a fan-out wrote, and what an exit step reads, KFP cannot
        hand over: there is a limit on the size of a pod's arguments, and a wall around a level.
        """
        if unit.is_fan_out or unit.name == EXIT_TASK:
            return
        for step in unit.steps:
            prefix = f"{step.id}." if unit.is_chain else ""
            for slot, position, source in outputs_read(step):
                producer = self._by_step.get(source.step_id)
                if producer is None or producer.is_fan_out or producer.name == unit.name:
                    continue
                written = next(s for s in producer.steps if s.id == source.step_id)
                output = f"{written.id}.{source.output}" if producer.is_chain else source.output
                place = ir.output_artifact(producer.name, output)
                yield f"{prefix}{slot}.{position}", (written.outputs[source.output], place)

    def _add_fan_out(self, level: ir.Dag, unit: Unit, after: Sequence[str]) -> None:
        if not self._open_conditions(unit):
            self._tasks[unit.name] = self._add_loops(level, unit, after)
            return
        # A loop whose condition does not hold has succeeded, to Argo: its iterations are skipped
        # and what stands behind it runs. So the condition is that of a level around the loops.
        loops = ir.Dag()
        self._add_loops(loops, unit, after=())
        component = loops.component()
        component["inputDefinitions"]["parameters"] |= {
            name: ir.parameter("NUMBER_DOUBLE") for name in self._compared(unit)
        }
        name = f"comp-{unit.name}-all"
        self._document.components[name] = component
        run_id = {ir.RUN_ID: ir.from_above(ir.RUN_ID)}
        made = ir.task(unit.name, component=name, parameters=run_id, after=after)
        self._conditions(made, unit)
        level.tasks[unit.name] = made
        self._tasks[unit.name] = [unit.name]

    def _add_loops(self, level: ir.Dag, unit: Unit, after: Sequence[str]) -> list[str]:
        """Add the loops of a fan-out; returns the names of their tasks."""
        inner = self._task(unit, self._component(unit), after=())
        inner["inputs"]["parameters"][_ITEM] = ir.from_above(_ITEM)
        body = ir.Dag({unit.name: inner}).component()
        body["inputDefinitions"]["parameters"][_ITEM] = ir.parameter("STRING")
        shards = list(_shards(self._items(unit)))
        names = []
        for number, items in enumerate(shards, start=1):
            name = f"{unit.name}-items" if len(shards) == 1 else f"{unit.name}-items-{number}"
            # A component each: KFP refuses two loops over one.
            self._document.components[f"comp-{name}"] = copy.deepcopy(body)
            run_id = {ir.RUN_ID: ir.from_above(ir.RUN_ID)}
            made = ir.task(name, component=f"comp-{name}", parameters=run_id, after=after)
            made["parameterIterator"] = {"items": {"raw": json.dumps(items)}, "itemInput": _ITEM}
            level.tasks[name] = made
            names.append(name)
        return names

    def _items(self, unit: Unit) -> list[str]:
        base = self._member(unit.first)
        return [item_text(base, self._member(step)) for step in unit.steps]


def _shards(items: Iterable[str]) -> Iterable[list[str]]:
    """``items`` in lists that fit into one argument each."""
    shard: list[str] = []
    size_bytes = 0
    for item in items:
        item_bytes = len(json.dumps(item)) + 2
        if shard and size_bytes + item_bytes > MAX_ITEMS_BYTES:
            yield shard
            shard, size_bytes = [], 0
        shard.append(item)
        size_bytes += item_bytes
    if shard:
        yield shard
