"""KFP's API with runs that run: the stand-in of the API server, and the driver behind it.

What `crucible.engines.kfp` submits over HTTP is followed here, so that a test can drive the whole
engine against real steps.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from crucible.testing.kfp_driver.document import RefusedPipeline, read_pipeline
from crucible.testing.kfp_driver.driver import Run, Settings, run_pipeline
from crucible.testing.kfp_driver.execution import Execution, State
from crucible.testing.kfp_driver.objects import Objects
from crucible.testing.kfp_driver.pods import Fault, Runner
from crucible.testing.kfp_server import KfpServer, kfp_server

logger = logging.getLogger(__name__)

Json = dict[str, Any]

_LOOK_SECONDS = 0.02
_STATES = {State.SUCCEEDED: "SUCCEEDED", State.FAILED: "FAILED", State.SKIPPED: "SKIPPED"}
"""Others are in no answer of KFP: a task behind one that failed has no state there."""


@dataclass
class Service:
    """A running KFP."""

    server: KfpServer
    runner: Runner
    objects: Objects
    settings: Settings
    faults: list[Fault] = field(default_factory=list)
    """Of runs that are submitted from now on."""
    runs: dict[str, Run] = field(default_factory=dict)
    """Those that have ended, by KFP's id."""
    _threads: dict[str, threading.Thread] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.server.url

    def look(self) -> None:
        """Begin what was submitted."""
        for run_id, run in list(self.server.runs.items()):
            if run_id not in self._threads:
                thread = threading.Thread(target=self._follow, args=(run_id, run), name=run_id)
                self._threads[run_id] = thread
                thread.start()

    def join(self) -> None:
        """Wait for the end of all runs."""
        for thread in self._threads.values():
            thread.join()

    def _follow(self, run_id: str, run: Json) -> None:
        self._say(run_id, "RUNNING")
        spec, config = run["pipeline_spec"], run["runtime_config"]
        documents = [spec["pipeline_spec"], spec.get("platform_spec", {})]
        try:
            done = run_pipeline(
                read_pipeline(yaml.safe_dump_all(documents)),
                self.runner,
                self.objects,
                self.settings,
                parameters=config.get("parameters"),
                run_id=run_id,
                faults=self.faults,
                terminated=lambda: _was_terminated(run),
            )
        except RefusedPipeline as refused:
            self._say(run_id, "FAILED", error={"message": str(refused)})
            return
        except Exception:
            logger.exception("the driver failed")
            self._say(run_id, "FAILED")
            raise
        self.runs[run_id] = done
        workflow = f"{spec['pipeline_spec']['pipelineInfo']['name']}-{run_id[:5]}"
        details = _details(done, workflow)
        self._say(run_id, _STATES[done.state], run_details={"task_details": details})

    def _say(self, run_id: str, state: str, **fields: Any) -> None:
        with self.server.lock:
            self.server.set_state(run_id, state, **fields)


def _was_terminated(run: Json) -> bool:
    return any(entry["state"] == "CANCELING" for entry in run.get("state_history", ()))


@contextlib.contextmanager
def running_kfp(runner: Runner, objects: Objects, settings: Settings) -> Iterator[Service]:
    """A KFP on a free port of loopback, for the length of the block and of what runs in it."""
    over = threading.Event()
    with kfp_server() as server:
        service = Service(server, runner, objects, settings)

        def watch() -> None:
            while not over.is_set():
                service.look()
                time.sleep(_LOOK_SECONDS)

        thread = threading.Thread(target=watch, name="kfp", daemon=True)
        thread.start()
        try:
            yield service
        finally:
            over.set()
            thread.join()
            service.join()


def _details(run: Run, name: str) -> list[Json]:
    """What v2beta1 tells of a run's tasks: the nodes of Argo, under the names they are shown by.

    A task that was omitted is told of without a state; so is what never began.
    """
    nodes: list[tuple[str, State | None]] = [
        (name, run.state),
        ("root", run.state),
        ("root-driver", State.SUCCEEDED),
    ]
    for one in run.root.tree():
        if one.path:
            nodes += _nodes(one)
    now = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
    return [
        {
            "task_id": f"{name}-{number}",
            "display_name": shown,
            "state": _STATES.get(state) if state is not None else None,
            "start_time": now,
            "end_time": now,
        }
        for number, (shown, state) in enumerate(nodes)
    ]


def _nodes(one: Execution) -> Iterator[tuple[str, State | None]]:
    """A task, its driver, and its pods."""
    if one.iterations is not None:
        yield one.name, one.state
        yield "iteration-driver", State.SUCCEEDED
        yield "iteration-iterations", one.state if one.iterations else State.SKIPPED
        return
    shown = one.name if one.iteration is None else "iteration-item"
    if one.driver_failed:
        driver = State.FAILED
    else:
        driver = State.OMITTED if one.state is State.OMITTED else State.SUCCEEDED
    yield f"{shown}-driver", driver
    yield shown, None if one.driver_failed else one.state
    retried = len(one.attempts) > 1
    for number, attempt in enumerate(one.attempts):
        end = State.SUCCEEDED if attempt.phase == "succeeded" else State.FAILED
        yield f"executor({number})" if retried else "executor", end
