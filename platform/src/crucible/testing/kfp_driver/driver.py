"""Follows a compiled pipeline as Kubeflow Pipelines and Argo would, without either.

Each level of the pipeline is an Argo DAG: a task begins when all that it depends on has succeeded,
and is omitted when one of them did anything else; an exit task is a hook on what it depends on. In
KFP each task has a driver pod before its own; here that is a function, and what would end that pod
with an error fails the task.

Facts that are easy to miss, each from the code of KFP 2.17 and Argo 4.1: a loop whose condition
does not hold *succeeds*, since only its iterations are skipped, and tasks behind it run; a level
fails if any of its tasks did, whatever comes after; an exit task that fails fails nothing; all
attempts of a task have the same places for outputs.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from crucible.testing.kfp_driver.condition import holds
from crucible.testing.kfp_driver.document import Pipeline, dependencies, is_exit
from crucible.testing.kfp_driver.execution import Artifact, Attempt, Execution, Ids, State
from crucible.testing.kfp_driver.inputs import (
    DriverError,
    Inputs,
    RunFacts,
    items_of,
    iteration_inputs,
    resolve_inputs,
)
from crucible.testing.kfp_driver.objects import Objects
from crucible.testing.kfp_driver.pods import Fault, Pod, PodEnd, Request, Runner, make_request
from crucible.testing.kfp_driver.retry import Retries
from crucible.testing.kfp_driver.values import as_value, metadata_value

Json = dict[str, Any]

ON_FAILURE = frozenset({"failed"})
ON_ERROR = frozenset({"error"})
"""What Argo's ``retryPolicy`` is under KFP's stock controller settings."""


@dataclass(frozen=True)
class Settings:
    """What an installation of KFP decides."""

    root: str
    """Pipeline root, ``s3://bucket/prefix``."""
    max_pods: int = 2
    """Pods that run at once."""
    retry_phases: frozenset[str] = ON_FAILURE
    backoff_scale: float = 0.0
    """Of waits between attempts; they are not slept in full."""


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    run_id: str
    state: State
    root: Execution

    @property
    def states(self) -> dict[str, str]:
        """State by path, of every task."""
        return {one.path: one.state.value for one in self.root.tree() if one.path}

    def task(self, path: str) -> Execution:
        """The task of that path, or of the only path that ends so.

        Raises:
            KeyError: there is none, or more than one.
        """
        found = [e for e in self.root.tree() if e.path == path or e.path.endswith(f"/{path}")]
        if len(found) != 1:
            known = ", ".join(self.states)
            raise KeyError(f"{len(found)} tasks are called {path!r}; there are {known}")
        return found[0]

    @property
    def errors(self) -> dict[str, str]:
        """Why, by path: tasks that failed."""
        return {one.path: one.error for one in self.root.tree() if one.error}


def run_pipeline(
    pipeline: Pipeline,
    runner: Runner,
    objects: Objects,
    settings: Settings,
    *,
    parameters: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    faults: Iterable[Fault] = (),
    terminated: Callable[[], bool] = lambda: False,
) -> Run:
    """Run ``pipeline`` to its end.

    Args:
        pipeline: what to run.
        runner: runs the pods.
        objects: reads what pods have uploaded.
        settings: of the installation.
        parameters: of the pipeline.
        run_id: KFP's id of the run; a new one if None.
        faults: what goes wrong.
        terminated: True once somebody has ended the run.

    Raises:
        RefusedPipeline: KFP would refuse the submission.
    """
    values = pipeline.parameters(parameters or {})
    run_id = run_id or str(uuid.uuid4())
    driver = _Driver(
        pipeline, runner, objects, settings, faults=tuple(faults), terminated=terminated
    )
    return asyncio.run(driver.run(run_id, values))


class _Driver:
    """One run."""

    def __init__(
        self,
        pipeline: Pipeline,
        runner: Runner,
        objects: Objects,
        settings: Settings,
        *,
        faults: tuple[Fault, ...],
        terminated: Callable[[], bool],
    ) -> None:
        self._pipeline = pipeline
        self._runner = runner
        self._objects = objects
        self._settings = settings
        self._faults = faults
        self._terminated = terminated
        self._ids = Ids()
        self._pods = ThreadPoolExecutor(settings.max_pods, "pod")

    async def run(self, run_id: str, parameters: Mapping[str, Any]) -> Run:
        name = f"{self._pipeline.name}-{run_id[:5]}"
        created = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._facts = RunFacts(run_id, name, name, created)
        root = Execution("", self._pipeline.root, id=self._ids.next())
        root.parameters = {key: as_value(value) for key, value in parameters.items()}
        try:
            await self._level(root)
        finally:
            self._pods.shutdown()
        return Run(run_id, root.state, root)

    async def _level(self, level: Execution) -> None:
        """Run all tasks of a level, and give it its end."""
        level.state = State.RUNNING
        tasks: Json = level.component["dag"]["tasks"]
        exits = {dep: name for name, task in tasks.items() if is_exit(task)
                 for dep in task.get("dependentTasks", ())}  # fmt: skip
        for name, task in tasks.items():
            path = f"{level.path}/{name}" if level.path else name
            level.children[name] = Execution(path, self._pipeline.component(task), level)
        ended = {name: asyncio.Event() for name, task in tasks.items() if not is_exit(task)}

        async def run_one(name: str) -> None:
            needed = dependencies(tasks[name])
            for other in needed:
                await ended[other].wait()
            child = level.children[name]
            fed = all(level.children[other].state is State.SUCCEEDED for other in needed)
            if fed and not self._terminated():
                await self._task(name, tasks[name], child)
            else:
                child.state = State.OMITTED
            if name in exits and child.has_ended and not self._terminated():
                hook = exits[name]
                await self._task(hook, tasks[hook], level.children[hook])
            ended[name].set()

        async with asyncio.TaskGroup() as group:
            for name in ended:
                group.create_task(run_one(name))
        failed = any(level.children[name].state is State.FAILED for name in ended)
        level.state = State.FAILED if failed or self._terminated() else State.SUCCEEDED

    async def _task(self, name: str, task: Json, child: Execution) -> None:
        try:
            if "parameterIterator" in task:
                await self._loop(name, task, child)
            else:
                inputs = resolve_inputs(name, task, child, self._facts)
                await self._begin(name, task, child, inputs)
        except DriverError as error:
            child.state, child.error, child.driver_failed = State.FAILED, str(error), True

    async def _begin(self, name: str, task: Json, child: Execution, inputs: Inputs) -> None:
        """What follows on the inputs, of a task or of one iteration."""
        child.id = self._ids.next()
        child.parameters, child.artifacts = inputs.parameters, inputs.artifacts
        if not _may_run(task, inputs):
            child.state = State.SKIPPED
        elif "dag" in child.component:
            await self._level(child)
        else:
            await self._container(name, task, child, inputs)

    async def _loop(self, name: str, task: Json, loop: Execution) -> None:
        inputs = resolve_inputs(name, task, loop, self._facts)
        loop.id = self._ids.next()
        loop.parameters, loop.artifacts = inputs.parameters, inputs.artifacts
        loop.state = State.RUNNING
        iterations: list[Execution] = []
        loop.iterations = iterations
        items = items_of(task, inputs) if _may_run(task, inputs) else []
        limit = task.get("iteratorPolicy", {}).get("parallelismLimit") or len(items) or 1
        room = asyncio.Semaphore(limit)

        async def run_one(index: int, item: Any) -> None:
            child = Execution(f"{loop.path}[{index}]", loop.component, loop, iteration=index)
            iterations.append(child)
            async with room:
                try:
                    given = iteration_inputs(task, child, loop, item)
                    await self._begin(name, task, child, given)
                except DriverError as error:
                    child.state, child.error = State.FAILED, str(error)
                    child.driver_failed = True

        async with asyncio.TaskGroup() as group:
            for index, item in enumerate(items):
                group.create_task(run_one(index, item))
        iterations.sort(key=lambda one: one.iteration or 0)
        failed = any(one.state is State.FAILED for one in iterations)
        loop.state = State.FAILED if failed else State.SUCCEEDED

    async def _container(self, name: str, task: Json, child: Execution, inputs: Inputs) -> None:
        label = child.component["executorLabel"]
        container = self._pipeline.executors[label]
        kubernetes = self._pipeline.kubernetes.get(label, {})
        run_root = f"{self._settings.root}/{self._pipeline.name}/{self._facts.run_id}"
        request = make_request(
            name, child.component, container, inputs, run_root=run_root, root=self._settings.root
        )
        retries = Retries.of(task, self._settings.retry_phases)
        child.state = State.RUNNING
        first = time.monotonic()
        while True:
            pod = self._pod(child, request, container, kubernetes, retried=retries is not None)
            phase = await self._attempt(child, pod, request)
            if phase == "succeeded" or retries is None or self._terminated():
                break
            since_first = time.monotonic() - first
            wait = retries.wait_seconds(len(child.attempts), phase, since_first)
            if wait is None:
                break
            await asyncio.sleep(wait * self._settings.backoff_scale)
        child.state = State.SUCCEEDED if phase == "succeeded" else State.FAILED
        child.error = "" if phase == "succeeded" else child.attempts[-1].message

    def _pod(
        self,
        child: Execution,
        request: Request,
        container: Json,
        kubernetes: Json,
        *,
        retried: bool,
    ) -> Pod:
        attempt = len(child.attempts)
        faults = tuple(f for f in self._faults if f.meets(child.path, attempt))
        lost = [part for f in faults if f.kind == "lose" for part in ("--lose", f.artifact)]
        environ = {entry["name"]: entry["value"] for entry in container.get("env", ())}
        return Pod(
            name=f"{self._facts.run_name}-{child.id}-{attempt}".lower(),
            run_id=self._facts.run_id,
            task=child.path,
            attempt=attempt,
            image=container["image"],
            flags=[*request.flags, *lost],
            command=request.command,
            environ={**({"KFP_RETRY_INDEX": str(attempt)} if retried else {}), **environ},
            resources=container.get("resources", {}),
            kubernetes=kubernetes,
            faults=faults,
            terminated=self._terminated,
        )

    async def _attempt(self, child: Execution, pod: Pod, request: Request) -> str:
        """Run one pod; its phase, with what the launcher would have told the metadata store."""
        loop = asyncio.get_running_loop()
        end, seconds = await loop.run_in_executor(self._pods, self._timed, pod)
        result = await loop.run_in_executor(None, self._objects.read, request.result_uri)
        phase, message = self._judge(child, end, json.loads(result) if result else None)
        child.attempts.append(Attempt(phase, message, seconds, end.log))
        return phase

    def _timed(self, pod: Pod) -> tuple[PodEnd, float]:
        """Run ``pod`` in a thread of its own, and how long that took."""
        begun = time.monotonic()
        end = self._runner.run(pod)
        return end, time.monotonic() - begun

    def _judge(self, child: Execution, end: PodEnd, result: Json | None) -> tuple[str, str]:
        if end.phase != "succeeded":
            return end.phase, (result or {}).get("error") or end.message
        if result is None or result["state"] != "COMPLETE":
            return "failed", "the launcher ended well and left no result"
        try:
            child.outputs = {
                name: self._registered(name, one) for name, one in result["artifacts"].items()
            }
        except ValueError as error:
            return "failed", f"unable to produce MLMD artifact: {error}"
        child.output_parameters = as_value(result["parameters"])
        return "succeeded", ""

    def _registered(self, name: str, told: Json) -> Artifact:
        metadata = {key: metadata_value(v) for key, v in told.get("metadata", {}).items()}
        title = told["type"].get("schemaTitle", "")
        return Artifact(self._ids.next(), name, told["uri"], title, metadata)


def _may_run(task: Json, inputs: Inputs) -> bool:
    condition = task.get("triggerPolicy", {}).get("condition")
    if not condition:
        return True
    try:
        return holds(condition, inputs.parameters)
    except ValueError as error:
        raise DriverError(str(error)) from error
