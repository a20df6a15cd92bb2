"""Plans through the KFP engine: compiled, submitted to a stand-in of KFP's API, run as processes.

What a cluster would add is left out; what is real is the compiler, the protocol of driver and
launcher, an S3 server, and the step processes. The oracle is the local engine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from crucible.artifacts import Store
from crucible.engines.kfp import engine as engine_module
from crucible.engines.kfp.engine import KfpEngine
from crucible.engines.kfp.session import Session
from crucible.engines.local.engine import LocalEngine
from crucible.engines.state import RunState
from crucible.plan import Plan
from crucible.settings import Settings
from crucible.specs.context import ContextDocument, load_context
from crucible.testing import kfp_driver
from crucible.testing.kfp_driver import Objects, ProcessRunner, Run
from crucible.testing.kfp_driver.sandbox import NoSandbox, check_sandbox
from crucible.testing.kfp_driver.service import Service, running_kfp
from crucible.testing.object_store import ObjectStore, object_store

IMAGES = {name: f"registry/{name}@sha256:{digit * 64}" for name, digit in zip(
    ("base", "cluster", "train", "eval", "serve"), "01234", strict=True)}  # fmt: skip
BUCKET = "crucible"
ROOT = f"s3://{BUCKET}/pipelines"
SECRET = "crucible-store"


@pytest.fixture(scope="session")
def server() -> Iterator[ObjectStore]:
    try:
        check_sandbox()
    except NoSandbox as reason:
        pytest.skip(str(reason))
    with object_store() as server:
        server.make_bucket(BUCKET)  # one: a server with little room has volumes for few
        yield server


@dataclasses.dataclass
class Installation:
    """A KFP, a store, and a context that names them."""

    kfp: Service
    context: ContextDocument
    engine: KfpEngine

    @property
    def store(self) -> Store:
        return self.engine.store

    def submit(self, plan: Plan) -> RunState:
        return self.end(self.engine.submit(plan))

    def end(self, run_id: str) -> RunState:
        *_, state = self.engine.watch(run_id)
        return state

    @property
    def last(self) -> Run:
        """What the driver knows of the newest run."""
        return list(self.kfp.runs.values())[-1]


Install = Callable[..., AbstractContextManager[Installation]]


@pytest.fixture
def install(server: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """An installation with further lines in its context file."""
    keys = {k: v for k, v in server.environ.items() if k.startswith("AWS_")}
    for name, value in {**keys, "CRUCIBLE_S3_ENDPOINT": server.endpoint}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(engine_module, "_LOOK_SECONDS", 0.1)
    objects = Objects.in_store(server)
    runner = ProcessRunner(tmp_path / "pods", objects.environ, [tmp_path], {SECRET: keys})
    store = f"s3://{BUCKET}/{tmp_path.name}"

    @contextlib.contextmanager
    def install(*lines: str) -> Iterator[Installation]:
        with running_kfp(runner, objects, kfp_driver.Settings(ROOT)) as kfp:
            text = [
                "apiVersion: crucible/v1",
                "kind: Context",
                "metadata: {name: test}",
                f"store: {{uri: '{store}', endpoint: '{server.endpoint}', secret: {SECRET}}}",
                f"images: {json.dumps(IMAGES)}",
                f"pipelines: {{api: {{access: url, url: '{kfp.url}'}}}}",
                *lines,
            ]
            path = tmp_path / "context.yaml"
            path.write_text("\n".join(text))
            context = load_context(path)
            session = Session(context)
            yield Installation(kfp, context, KfpEngine(session))
            session.close()

    return install


@pytest.fixture
def installation(install: Install) -> Iterator[Installation]:
    with install() as installation:
        yield installation


@pytest.fixture
def locally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a plan on the local engine in a folder of its own."""
    monkeypatch.setenv("CRUCIBLE_TRACKING", "off")
    home = {"CRUCIBLE_HOME": str(tmp_path / "home")}
    monkeypatch.setenv("CRUCIBLE_HOME", home["CRUCIBLE_HOME"])
    engine = LocalEngine(Settings.load(home))

    def run(plan: Plan) -> RunState:
        *_, state = engine.watch(engine.submit(plan))
        return state

    return run


def imaged(plan: Plan) -> Plan:
    """With the image that the planner would give each step."""
    steps = tuple(dataclasses.replace(step, image=IMAGES["base"]) for step in plan.steps)
    on_exit = plan.on_exit and dataclasses.replace(plan.on_exit, image=IMAGES["base"])
    return dataclasses.replace(plan, steps=steps, on_exit=on_exit)


def same(mine: RunState, theirs: RunState) -> bool:
    """Status and artifacts of every step agree; what differs is shown."""
    assert statuses(mine) == statuses(theirs)
    assert outputs(mine) == outputs(theirs)
    return True


def outputs(state: RunState) -> dict[str, dict[str, str]]:
    return {step_id: step.outputs for step_id, step in state.steps.items()}


def statuses(state: RunState) -> dict[str, str]:
    return {step_id: step.status.value for step_id, step in state.steps.items()}


def record(installation: Installation, state: RunState, step_id: str) -> dict[str, Any]:
    """The only record of a step's output ``dataset``."""
    reader = installation.store.reader(state.steps[step_id].outputs["dataset"])
    with reader.open("records.jsonl") as file:
        found: dict[str, Any] = json.load(file)
    return found


def phases(run: Run, task: str) -> list[str]:
    """How the pods of a task ended."""
    return [pod.phase for pod in run.task(task).attempts]
