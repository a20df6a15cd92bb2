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
        tasks = [task for one in done.root.tree() if one.path for task in _details(one)]
        self._say(run_id, _STATES[done.state], run_details={"task_details": tasks})

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


def _details(one: Execution) -> Iterator[Json]:
    """What v2beta1 tells of a task and of its driver."""
    name, _, index = one.name.partition("[")
    shown = name if not index else f"iteration-item({index.rstrip(']')})"
    driver = "FAILED" if one.driver_failed else "SUCCEEDED"
    state = None if one.driver_failed else _STATES.get(one.state)
    began = one.state is not State.OMITTED
    for label, told in ((f"{shown}-driver", driver if began else None), (shown, state)):
        if told is not None:
            now = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
            yield {
                "task_id": f"{one.path}/{label}",
                "display_name": label,
                "state": told,
                "start_time": now,
                "end_time": now,
            }
