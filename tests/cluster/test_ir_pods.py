"""Compiled pipelines as pods on a real kubelet, followed by a driver that stands in for KFP's.

Everything of the KFP engine is real but KFP itself: the compiler, the images, the pods with what
their hardening allows, the store, MLflow, and the verbs of the engine on the other side. The pods'
namespace enforces the strictest of the pod security standards.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from crucible.artifacts.backend import CHECKPOINTS
from crucible.cluster import connect
from crucible.engines.kfp import engine as engine_module
from crucible.engines.kfp.engine import KfpEngine
from crucible.engines.kfp.session import Session
from crucible.engines.local.engine import LocalEngine
from crucible.engines.state import FailureCause, RunState, RunStatus
from crucible.plan import Plan, build
from crucible.plan.model import Condition, MetricRef, StepOutput
from crucible.sdk.component import Resources
from crucible.settings import Settings
from crucible.specs import load_pipeline
from crucible.specs.context import KubernetesSpec, load_context
from crucible.testing import kfp_driver
from crucible.testing.cluster import KUBECONFIG_VARIABLE, Cluster, OwnCluster
from crucible.testing.cluster.images import SOCKET
from crucible.testing.images import MachineUnfit, built_image
from crucible.testing.images import check_machine as check_builds
from crucible.testing.kfp_driver import Fault, Objects
from crucible.testing.kfp_driver.pod_runner import PodRunner
from crucible.testing.kfp_driver.service import Service, running_kfp
from crucible.testing.mlflow_server import mlflow_server
from crucible.testing.object_store import ObjectStore, object_store
from crucible.testing.plans import make_plan, make_step

logger = logging.getLogger(__name__)

QUICKSTART = Path(__file__).parents[2] / "pipelines/quickstart/pipeline.yaml"
BUCKET, SECRET = "crucible", "crucible-store"


@pytest.fixture(scope="module")
def machine(cluster: Cluster) -> OwnCluster:
    """A cluster on this machine: its node takes images, its pods reach servers of the machine."""
    if not isinstance(cluster, OwnCluster):
        pytest.skip(f"gives a node images, and {KUBECONFIG_VARIABLE} names somebody's")
    return cluster


def ctr(machine: OwnCluster, *arguments: str) -> str:
    """Ask the node's containerd."""
    options = ("--address", SOCKET, "--namespace", "k8s.io")
    return machine.namespaces.run("ctr", *options, *arguments)


@pytest.fixture(scope="module")
def give_image(machine: OwnCluster) -> Callable[[str], str]:
    """Builds the image of a set and gives it to the node; returns it by digest."""
    try:
        check_builds()
    except MachineUnfit as unfit:
        pytest.skip(str(unfit))

    def give_image(set_name: str) -> str:
        archive = built_image(set_name)
        [name] = machine.import_image(archive.archive_path)
        ctr(machine, "images", "tag", "--force", name, archive.by_digest)
        return archive.by_digest

    return give_image


@pytest.fixture(scope="module")
def server(machine: OwnCluster) -> Iterator[ObjectStore]:
    """A store of this machine that pods reach."""
    with object_store(address=machine.gateway) as server:
        server.make_bucket(BUCKET)
        yield server


@dataclass
class Installation:
    """A KFP whose pods run in a namespace of the cluster."""

    kfp: Service
    engine: KfpEngine
    runner: PodRunner

    def submit(self, plan: Plan) -> RunState:
        *_, state = self.engine.watch(self.engine.submit(plan))
        return state

    @property
    def last(self) -> kfp_driver.Run:
        return list(self.kfp.runs.values())[-1]


Install = Callable[..., AbstractContextManager[Installation]]


@pytest.fixture
def install(
    machine: OwnCluster,
    namespace: str,
    server: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Install:
    """An installation with those images and with further lines in its context file."""
    keys = {k: v for k, v in server.environ.items() if k.startswith("AWS_")}
    for name, value in {**keys, "CRUCIBLE_S3_ENDPOINT": server.endpoint}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(engine_module, "_LOOK_SECONDS", 0.5)
    data = {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "data": data}
    machine.apply(secret, namespace)
    objects = Objects.in_store(server)
    store = f"s3://{BUCKET}/{namespace}"

    def kill(container_id: str) -> None:
        ctr(machine, "tasks", "kill", "--signal", "SIGKILL", container_id)

    @contextlib.contextmanager
    def install(images: dict[str, str], *lines: str) -> Iterator[Installation]:
        connection = connect(KubernetesSpec(kubeconfig=str(machine.kubeconfig)))
        runner = PodRunner(connection, namespace, objects.environ, kill=kill)
        runner.prepare()
        settings = kfp_driver.Settings(f"{store}/pipelines", max_pods=2)
        with running_kfp(runner, objects, settings) as kfp:
            text = [
                "apiVersion: crucible/v1",
                "kind: Context",
                "metadata: {name: test}",
                f"kubernetes: {{kubeconfig: '{machine.kubeconfig}', namespace: {namespace}}}",
                f"store: {{uri: '{store}', endpoint: '{server.endpoint}', secret: {SECRET}}}",
                f"images: {json.dumps(images)}",
                f"pipelines: {{api: {{access: url, url: '{kfp.url}'}}}}",
                *lines,
            ]
            path = tmp_path / "context.yaml"
            path.write_text("\n".join(text))
            session = Session(load_context(path))
            yield Installation(kfp, KfpEngine(session), runner)
            session.close()
        connection.close()

    return install


@pytest.fixture
def locally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Plan], RunState]:
    """Runs a plan on the local engine, in a folder of its own."""
    home = {"CRUCIBLE_HOME": str(tmp_path / "home")}
    engine = LocalEngine(Settings.load(home))

    def run(plan: Plan) -> RunState:
        with monkeypatch.context() as patch:
            for name in ("CRUCIBLE_S3_ENDPOINT", "CRUCIBLE_STORE", "MLFLOW_TRACKING_URI"):
                patch.delenv(name, raising=False)
            patch.setenv("CRUCIBLE_HOME", home["CRUCIBLE_HOME"])
            *_, state = engine.watch(engine.submit(plan))
        return state

    return run


def statuses(state: RunState) -> dict[str, str]:
    return {step_id: step.status.value for step_id, step in state.steps.items()}


def digests(state: RunState, *, without: str = "") -> dict[str, str]:
    """Digest by step and output."""
    return {
        f"{step_id}.{name}": digest
        for step_id, step in state.steps.items()
        if step_id != without
        for name, digest in step.outputs.items()
    }


def test_small_pipelines_run_as_pods(
    install: Install, give_image: Callable[[str], str], locally: Callable[[Plan], RunState]
) -> None:
    """Fan-out, condition, skipped branch, report; a killed pod that goes on from its checkpoint."""
    base = give_image("base")
    with install({"base": base}) as installation:
        when = (Condition(MetricRef("probe", "metrics", "score"), ">", 0.5),)
        never = (Condition(MetricRef("probe", "metrics", "score"), ">", 1.5),)
        counting = {"until": 10, "checkpoint_every": 2, "pause_seconds": 0.5}
        trials = [
            make_step(f"trial[{i}]", "Emit", config={"values": {"x": i}}, image=base)
            for i in range(2)
        ]
        plan = make_plan(
            make_step(
                "probe",
                "Emit",
                config={"values": {"score": 1.0}, "report_html": "<p>fine</p>"},
                image=base,
            ),
            *trials,
            make_step(
                "sum", "Sum", {"metrics": [StepOutput(t.id, "metrics") for t in trials]}, image=base
            ),
            make_step("count", "Count", config=counting, after=("probe",), when=when, image=base),
            make_step("never", "Noop", after=("probe",), when=never, image=base),
            make_step("behind", "Noop", {"dataset": StepOutput("never", "dataset")}, image=base),
        )
        backend = installation.engine.store.backend
        installation.kfp.faults.append(
            Fault("count", "kill", when=lambda: any(backend.listing(CHECKPOINTS)))
        )
        state = installation.submit(plan)
        assert state.status is RunStatus.SUCCEEDED, installation.last.errors
        assert [pod.phase for pod in installation.last.task("count").attempts] == [
            "failed",
            "succeeded",
        ]
        assert statuses(state)["never"] == statuses(state)["behind"] == "skipped"
        theirs = locally(plan)
        assert digests(state) == digests(theirs)
        page = installation.last.task("probe").outputs["report.html"]
        assert installation.kfp.objects.read(page.uri) == b"<p>fine</p>"


@pytest.mark.parametrize("part", ["kube-apiserver", "kubelet"])
def test_a_run_outlives_a_part_of_the_cluster(
    install: Install, give_image: Callable[[str], str], machine: OwnCluster, part: str
) -> None:
    """Killed in the middle of a step and away for some seconds; the state is right in the end."""
    base = give_image("base")
    counting = {"until": 20, "checkpoint_every": 2, "pause_seconds": 0.5}
    count = make_step("count", "Count", config=counting, image=base)
    after = make_step("after", "Noop", {"dataset": StepOutput("count", "dataset")}, image=base)
    with install({"base": base}) as installation:
        backend = installation.engine.store.backend

        def kill_and_restart() -> None:
            deadline = time.monotonic() + 120.0
            while not any(backend.listing(CHECKPOINTS)) and time.monotonic() < deadline:
                time.sleep(0.2)
            machine.kill(part)
            time.sleep(3.0)
            machine.restart(part)

        breaking = threading.Thread(target=kill_and_restart)
        breaking.start()
        try:
            state = installation.submit(make_plan(count, after))
        finally:
            breaking.join()
        assert state.status is RunStatus.SUCCEEDED, installation.last.errors
        assert statuses(state) == {"count": "succeeded", "after": "succeeded"}
        assert state.steps["count"].attempt == 1
        assert installation.engine.state(state.run_id).status is RunStatus.SUCCEEDED


def test_pods_tell_what_the_journal_cannot(
    install: Install, give_image: Callable[[str], str]
) -> None:
    """A step that is killed with its pod, one that takes too long, and one that cannot start."""
    base = give_image("base")
    small = Resources(cpus=0.1, memory_gib=0.1)
    with install({"base": base}, "step_retries: 0") as installation:
        eat = make_step("eat", "EatMemory", config={"max_gib": 2.0}, image=base, resources=small)
        slow = make_step(
            "slow",
            "Hang",
            config={"ignore_sigterm": True},
            image=base,
            resources=small,
            timeout_minutes=0.25,
        )
        state = installation.submit(make_plan(eat, slow))
        causes = {name: step.failure and step.failure.cause for name, step in state.steps.items()}
        assert causes == {"eat": FailureCause.OUT_OF_MEMORY, "slow": FailureCause.TIMEOUT}

        nowhere = dataclasses.replace(small, pool="no-such-pool")
        run_id = installation.engine.submit(
            make_plan(make_step("stuck", "Noop", image=base, resources=nowhere))
        )
        for state in installation.engine.watch(run_id):
            obstacle = state.steps["stuck"].obstacle
            if obstacle is not None:
                break
        assert obstacle is not None
        assert obstacle.cause is FailureCause.UNSCHEDULABLE
        assert installation.engine.cancel(run_id).status is RunStatus.CANCELLED


@pytest.mark.slow
def test_the_quickstart_as_pods_gives_what_the_local_engine_gives(
    install: Install,
    give_image: Callable[[str], str],
    locally: Callable[[Plan], RunState],
    machine: OwnCluster,
    tmp_path: Path,
) -> None:
    train = give_image("train")
    images = {"base": train, "train": train, "eval": train}
    spec = load_pipeline(QUICKSTART, preset="smallest")
    with (
        mlflow_server(tmp_path / "mlflow", address=machine.gateway) as mlflow,
        install(images, f"mlflow: {{uri: '{mlflow}'}}") as installation,
    ):
        plan = build(spec, images=images)
        state = installation.submit(plan)
        assert state.status is RunStatus.SUCCEEDED, installation.last.errors
        show_seconds(installation)
        assert state.release is not None
        assert state.release["outcome"] == "promoted"
        theirs = locally(plan)
        report = plan.on_exit.id if plan.on_exit else ""
        assert digests(state, without=report) == digests(theirs, without=report)


def show_seconds(installation: Installation) -> None:
    """Log how long pods waited and ran, the slowest first."""
    for one in installation.last.root.tree():
        for attempt in one.attempts:
            logger.info("%-24s %6.1f s as a pod", one.path, attempt.seconds)
    for name, seconds in installation.runner.seconds.items():
        logger.info("%s waited %.0f s, ran %.0f s", name, seconds["waited"], seconds["ran"])
