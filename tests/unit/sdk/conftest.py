import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from crucible.artifacts import ArtifactRef, Store, open_store
from crucible.sdk.catalogue import load_component
from crucible.sdk.component import slots_of
from crucible.sdk.events import read_events
from crucible.sdk.executor import (
    ExecutorInput,
    RuntimeArtifact,
    StepParameters,
    build_executor_input,
    read_executor_output,
)

FORK_ON_DEMAND = """
import json, os, sys
import crucible.step, crucible.testing.components, crucible.artifacts.file_backend

def become(job):
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(job["environ"])
    os.chdir(job["cwd"])
    code = 1
    try:
        code = crucible.step.main(job["argv"])
    finally:
        sys.stdout.flush()
        os._exit(code)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        become(json.loads(line))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@dataclass
class Finished:
    """A step process that has ended."""

    exit_code: int
    request: ExecutorInput
    log: str
    events_path: Path

    @property
    def attempt_dir(self) -> Path:
        return self.request.output_file.parent

    @property
    def failure(self) -> dict[str, Any] | None:
        path = self.attempt_dir / "failure.json"
        return json.loads(path.read_text()) if path.exists() else None

    @property
    def outputs(self) -> dict[str, RuntimeArtifact]:
        return read_executor_output(self.request.output_file)

    @property
    def events(self) -> list[dict[str, Any]]:
        return read_events(self.events_path)[0]

    def ref(self, output: str) -> ArtifactRef:
        return ArtifactRef.read(self.request.outputs[output].path)


@dataclass
class StepBench:
    """Runs steps as processes of their own, forked from a server that has imported the runner."""

    folder: Path
    server: "subprocess.Popen[str]"
    count: Iterator[int] = field(default_factory=itertools.count)

    @property
    def store(self) -> Store:
        return open_store((self.folder / "store").as_uri())

    def request(
        self,
        uses: str,
        config: dict[str, Any] | None = None,
        inputs: dict[str, list[Path]] | None = None,
        **step: Any,
    ) -> ExecutorInput:
        number = next(self.count)
        cls = load_component(uses)
        parameters = {"run_id": "r1", "step_id": "only", "fingerprint": f"sha256:{number:064x}"}
        return build_executor_input(
            step=StepParameters(**(parameters | step)),
            config=config or {},
            inputs=inputs or {},
            outputs={slot.name: slot.type for slot in slots_of(cls.Outputs)},
            attempt_dir=self.folder / "attempts" / str(number),
        )

    def environ(self, request: ExecutorInput, **extra: str) -> dict[str, str]:
        here = request.output_file.parent
        return {
            "CRUCIBLE_HOME": str(self.folder),
            "CRUCIBLE_STORE": (self.folder / "store").as_uri(),
            "CRUCIBLE_EVENTS": str(here / "events.jsonl"),
            "CRUCIBLE_CHECKPOINTS": str(self.folder / "checkpoints" / request.step.fingerprint[7:]),
            "CRUCIBLE_SCRATCH": str(here / "scratch"),
        } | extra

    def start(self, uses: str, request: ExecutorInput, **environ: str) -> int:
        """Begin a step; returns its process id. `finish` must follow."""
        here = request.output_file.parent
        here.mkdir(parents=True, exist_ok=True)
        job = {
            "argv": [uses, "--executor-input", json.dumps(request.to_json())],
            "environ": self.environ(request, **environ),
            "cwd": str(self.folder),
            "log": str(here / "log.txt"),
        }
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def finish(self, request: ExecutorInput) -> Finished:
        assert self.server.stdout is not None
        exit_code = int(self.server.stdout.readline())
        here = request.output_file.parent
        log = (here / "log.txt").read_text()
        return Finished(exit_code, request, log, here / "events.jsonl")

    def run_request(self, uses: str, request: ExecutorInput, **environ: str) -> Finished:
        self.start(uses, request, **environ)
        return self.finish(request)

    def run(
        self,
        name: str,
        config: dict[str, Any] | None = None,
        inputs: dict[str, list[Path]] | None = None,
        **step: Any,
    ) -> Finished:
        uses = name if ":" in name else f"crucible.testing.components:{name}"
        return self.run_request(uses, self.request(uses, config, inputs, **step))


@pytest.fixture(scope="session")
def forking_server() -> Iterator["Callable[[], subprocess.Popen[str]]"]:
    """Starts the server when first asked; ended with the session."""
    started: list[subprocess.Popen[str]] = []

    def get() -> "subprocess.Popen[str]":
        if not started:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-c", FORK_ON_DEMAND],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"PYTHONUNBUFFERED": "1"},
                )
            )
        return started[0]

    yield get
    for server in started:
        server.send_signal(signal.SIGKILL)
        server.communicate()


@pytest.fixture
def bench(tmp_path: Path, forking_server: "Callable[[], subprocess.Popen[str]]") -> StepBench:
    return StepBench(tmp_path, forking_server())
