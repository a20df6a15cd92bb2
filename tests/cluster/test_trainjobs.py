"""Steps on several nodes: launcher, nodes and all objects on a real Kubernetes, and their mishaps.

Trainer's controller needs JobSet, which publishes no module to build it from, so a thread of the
test plays both; the definitions of TrainJobs are Trainer's own, and the runtime is that of
manifests/.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crucible.artifacts.backend import CHECKPOINTS
from crucible.cluster import connect
from crucible.engines.state import FailureCause, RunState, RunStatus
from crucible.journal import Journal, LineReader, StreamReader
from crucible.plan.model import Plan, PlanStep, Retry, StepOutput
from crucible.sdk.component import Resources
from crucible.sdk.pod.board import Board
from crucible.specs.context import KubernetesSpec
from crucible.testing.cluster import OwnCluster
from crucible.testing.distributed import expected_state
from crucible.testing.manifests import module_folder
from crucible.testing.plans import make_plan, make_step
from crucible.testing.trainer import TrainerDouble

from .test_ir_pods import Install, Installation, ctr, give_image, install, machine, server

__all__ = ["give_image", "install", "machine", "server"]  # fixtures

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).parents[2]
TRAINER = ("github.com/kubeflow/trainer/v2", "v2.3.0")
LAUNCHER = "crucible-launcher"
SMALL = Resources(cpus=0.1, memory_gib=0.1, nodes=2)
Json = dict[str, Any]


@pytest.fixture(scope="module")
def trainer_installed(machine: OwnCluster) -> None:
    """Trainer's definitions, our runtime and what it names."""
    try:
        folder = module_folder(*TRAINER) / "manifests/base/crds"
    except FileNotFoundError as error:
        pytest.skip(f"no definitions of TrainJobs: {error}")
    for name in ("trainjobs", "clustertrainingruntimes"):
        path = folder / f"trainer.kubeflow.org_{name}.yaml"
        machine.kubectl("apply", "--server-side", "-f", str(path))
        _until(lambda path=path: _is_served(machine, path))
    for path in ("base/system/priority-classes.yaml", "components/trainer/torch-runtime.yaml"):
        machine.kubectl("apply", "-f", str(REPOSITORY / "manifests" / path))


def _is_served(machine: OwnCluster, path: Path) -> bool:
    """``kubectl wait`` fails on a definition that has no status yet."""
    status = yaml.safe_load(machine.kubectl("get", "-f", str(path), "-o", "yaml")).get("status", {})
    return any(
        each["type"] == "Established" and each["status"] == "True"
        for each in status.get("conditions") or ()
    )


class Site:
    """A KFP, a Trainer, and a namespace whose launchers may start TrainJobs."""

    def __init__(self, installation: Installation, trainer: TrainerDouble, base: str) -> None:
        self.installation, self.trainer, self.base = installation, trainer, base

    @property
    def backend(self) -> Any:
        return self.installation.engine.store.backend

    def plan(self, *, limit: int = 0, **config: Any) -> Plan:
        step = make_step(
            "count",
            "crucible.testing.distributed:CountTogether",
            config=config,
            image=self.base,
            resources=SMALL,
            retry=Retry(limit=limit, backoff_seconds=0.1),
        )
        return make_plan(step)

    def record(self, state: RunState) -> Json:
        digest = state.steps["count"].outputs["dataset"]
        with self.installation.engine.store.reader(digest).open("records.jsonl") as lines:
            found: Json = json.loads(lines.read())
        return found

    def board(self, state: RunState, attempt: int = 1) -> Board:
        return Board(self.backend, f"journal/{state.run_id}/steps/count/{attempt:04d}/")

    def log(self, prefix: str) -> str:
        return "\n".join(LineReader(StreamReader(self.backend, prefix)).read(final=True))


@pytest.fixture
def site(
    install: Install,
    give_image: Callable[[str], str],
    machine: OwnCluster,
    namespace: str,
    trainer_installed: None,
) -> Iterator[Site]:
    base, cluster = give_image("base"), give_image("cluster")
    _give_rights(machine, namespace)
    connection = connect(KubernetesSpec(kubeconfig=str(machine.kubeconfig)))
    with (
        install({"base": base, "cluster": cluster}, "step_retries: 0") as installation,
        TrainerDouble(connection, namespace) as trainer,
    ):
        installation.runner.service_account = LAUNCHER
        yield Site(installation, trainer, base)
        assert trainer.errors == []
    connection.close()


def _give_rights(machine: OwnCluster, namespace: str) -> None:
    """Those of manifests/, and nothing more."""
    roles = yaml.safe_load_all((REPOSITORY / "manifests/base/run/roles.yaml").read_text())
    for role in roles:
        if role["metadata"]["name"] == LAUNCHER:
            machine.apply(role, namespace)
    subject = {"kind": "ServiceAccount", "name": LAUNCHER, "namespace": namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": LAUNCHER}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": LAUNCHER}}
    machine.apply(account, namespace)
    machine.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": LAUNCHER},
            "roleRef": reference,
            "subjects": [subject],
        },
        namespace,
    )


def _until(holds: Callable[[], Any], seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.3)
    return found


@contextlib.contextmanager
def _meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Do ``action`` while the block runs; the block's end waits for it."""
    errors: list[BaseException] = []

    def act() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert errors == []


def test_two_nodes_make_one_step(site: Site) -> None:
    jobs: list[Json] = []
    plan = site.plan(until=12, pause_seconds=0.5)

    def look() -> None:
        jobs.extend(_until(site.trainer.jobs))

    with _meanwhile(look):
        state = site.installation.submit(plan)
    assert state.status is RunStatus.SUCCEEDED, site.installation.last.errors
    assert site.record(state)["state"] == expected_state(12, 2)
    progress = state.steps["count"].progress
    assert progress is not None
    assert (progress.done, progress.unit) == (12, "numbers")
    job = jobs[0]
    [owner] = job["metadata"]["ownerReferences"]
    assert owner["kind"] == "Pod"
    assert job["metadata"]["labels"]["crucible.dev/step"] == "count"
    assert job["metadata"]["labels"]["crucible.dev/run"] == state.run_id
    log = "\n".join(site.installation.engine.logs(state.run_id, "count", follow=False))
    assert f"TrainJob {job['metadata']['name']}: 2 nodes" in log
    assert "step count of run" in log  # what node 0 printed
    board = site.board(state)
    assert "step count of run" in site.log(board.log_prefix(1))
    again = site.installation.submit(plan)
    assert again.steps["count"].status.value == "cached"
    assert len(site.trainer.jobs()) == 1


def test_a_killed_node_is_replaced_and_goes_on_from_the_checkpoint(
    site: Site, machine: OwnCluster
) -> None:
    def kill() -> None:
        _until(lambda: any(site.backend.listing(CHECKPOINTS)))
        [job] = site.trainer.jobs()
        pod = site.trainer.pods(job["metadata"]["name"])[1]
        container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
        ctr(machine, "tasks", "kill", "--signal", "SIGKILL", container)

    plan = site.plan(until=30, checkpoint_every=5, pause_seconds=0.3, limit=1)
    with _meanwhile(kill):
        state = site.installation.submit(plan)
    assert state.status is RunStatus.SUCCEEDED, site.installation.last.errors
    assert state.steps["count"].attempt == 2
    record = site.record(state)
    assert record["resumed_at"] >= 5
    assert record["state"] == expected_state(30, 2)
    journal = Journal(site.backend, state.run_id)
    [ended] = [event for event in journal.events() if event["type"] == "step.retrying"]
    assert ended["failure"]["cause"] == "temporary"
    assert "node 1 (pod" in ended["failure"]["message"]


def test_a_cancelled_run_takes_its_nodes_along(site: Site) -> None:
    engine = site.installation.engine
    run_id = engine.submit(site.plan(until=100_000, pause_seconds=0.1))
    watching = threading.Thread(target=lambda: list(engine.watch(run_id)), daemon=True)
    watching.start()
    [job] = _until(site.trainer.jobs)
    name = job["metadata"]["name"]
    _until(lambda: any(pod["status"]["phase"] == "Running" for pod in site.trainer.pods(name)))
    assert engine.cancel(run_id).status is RunStatus.CANCELLED
    _until(lambda: not site.trainer.jobs(), seconds=40)
    _until(lambda: not site.trainer.pods(name), seconds=60)
    watching.join(timeout=60)


def test_a_job_without_quota_says_so_and_runs_when_it_has_some(site: Site) -> None:
    site.trainer.holds_back = True
    engine = site.installation.engine
    run_id = engine.submit(site.plan(until=3))
    messages: list[str] = []

    def admit() -> None:
        _until(lambda: any("waiting for quota" in message for message in messages))
        [job] = site.trainer.jobs()
        assert site.trainer.pods(job["metadata"]["name"]) == []
        site.trainer.suspend(job["metadata"]["name"], False)

    with _meanwhile(admit):
        for state in engine.watch(run_id):
            progress = state.steps["count"].progress
            messages.append("" if progress is None else progress.message)
    assert state.status is RunStatus.SUCCEEDED, site.installation.last.errors
    assert site.record(state)["state"] == expected_state(3, 2)


@pytest.mark.parametrize(
    ("config", "cause", "message"),
    [
        ({"failing_rank": 1}, FailureCause.RAISED, "ValueError: on purpose"),
        ({"hungry_rank": 1}, FailureCause.OUT_OF_MEMORY, "killed for lack of memory"),
    ],
)
def test_it_is_told_which_node_failed_and_why(
    site: Site, config: Json, cause: FailureCause, message: str
) -> None:
    state = site.installation.submit(site.plan(until=3, **config))
    assert state.status is RunStatus.FAILED
    failure = state.steps["count"].failure
    assert failure is not None
    assert failure.cause is cause
    assert "node 1 (pod" in failure.message
    assert message in failure.message
    assert any(line.startswith("[node 1] ") for line in failure.log_tail)


@pytest.mark.slow
def test_train_vlm_on_two_nodes_trains_what_it_trains_on_one(
    site: Site, give_image: Callable[[str], str]
) -> None:
    """The same batches, shared by two pods over their network, and not."""
    train = give_image("train")
    scenes = make_step(
        "scenes",
        "crucible_components.synthesis.component:SynthesizeScenes",
        config={"num_scenes": 40, "num_prompt_scenes": 4, "num_evaluation_scenes": 4},
        image=train,
        resources=Resources(cpus=1.0, memory_gib=1.5),
    )
    settings = {"stage": "alignment", "steps": 8, "precision": "float32"}
    inputs = {"dataset": StepOutput("scenes", "alignment")}

    def align(name: str, nodes: int, after: tuple[str, ...]) -> PlanStep:
        return make_step(
            name,
            "crucible_components.training.component:TrainVlm",
            inputs,
            config=settings,
            after=after,
            image=train,
            resources=Resources(cpus=0.5, memory_gib=2.0, nodes=nodes),
            cache_enabled=False,  # equal settings have one fingerprint, on any number of nodes
        )

    plan = make_plan(scenes, align("two", 2, ()), align("one", 1, ("two",)))
    state = site.installation.submit(plan)
    assert state.status is RunStatus.SUCCEEDED, site.installation.last.errors
    metrics = {}
    for name in ("one", "two"):
        digest = state.steps[name].outputs["metrics"]
        metrics[name] = dict(site.installation.engine.store.manifest(digest).metadata)
    logger.info("%s", metrics)
    assert metrics["two"].keys() >= {"loss_total", "num_supervised_tokens"}
    assert metrics["two"] == pytest.approx(metrics["one"], rel=2e-3)
    assert state.steps["two"].outputs["model"] != state.steps["one"].outputs["model"]
