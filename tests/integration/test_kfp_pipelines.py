"""Plans through the KFP engine: compiled, submitted to a stand-in of KFP's API, run as processes.

What a cluster would add is left out; what is real is the compiler, the protocol of driver and
launcher, an S3 server, and the step processes. The oracle is the local engine: the same plan must
give the same artifacts.
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
import yaml

from crucible.artifacts import Store
from crucible.artifacts.backend import CHECKPOINTS
from crucible.engines.kfp import compile
from crucible.engines.kfp import engine as engine_module
from crucible.engines.kfp.api import PipelinesApi
from crucible.engines.kfp.document import compiled, to_yaml
from crucible.engines.kfp.engine import KfpEngine
from crucible.engines.kfp.session import Session
from crucible.engines.local.engine import LocalEngine
from crucible.engines.state import RunState, RunStatus
from crucible.journal import Journal
from crucible.plan.model import (
    Condition,
    Gate,
    MetricRef,
    Plan,
    Release,
    Retry,
    StepOutput,
    Threshold,
)
from crucible.settings import Settings
from crucible.specs.context import ContextDocument, load_context
from crucible.testing import kfp_driver
from crucible.testing.kfp_driver import Fault, Objects, ProcessRunner, Run
from crucible.testing.kfp_driver.sandbox import NoSandbox, check_sandbox
from crucible.testing.kfp_driver.service import Service, running_kfp
from crucible.testing.mlflow_server import mlflow_server
from crucible.testing.object_store import ObjectStore, object_store
from crucible.testing.plans import make_plan, make_step

IMAGES = {name: f"registry/{name}@sha256:{digit * 64}" for name, digit in zip(
    ("base", "cluster", "train", "eval", "serve"), "01234", strict=True)}  # fmt: skip
BUCKET = "crucible"
ROOT = f"s3://{BUCKET}/pipelines"
SECRET = "crucible-store"


@pytest.fixture(scope="module")
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


def test_a_chain_of_steps(installation: Installation, locally: Any) -> None:
    plan = imaged(make_plan(
        make_step("first", "Noop"),
        make_step("second", "Noop", {"dataset": StepOutput("first", "dataset")}),
    ))  # fmt: skip
    state = installation.submit(plan)
    assert statuses(state) == {"first": "succeeded", "second": "succeeded"}
    assert same(state, locally(plan))
    artifact = installation.last.task("second").outputs["dataset"]
    assert artifact.metadata["crucible_digest"] == state.steps["second"].outputs["dataset"]
    assert artifact.schema_title == "system.Dataset"
    read = installation.last.task("second").artifacts["dataset.0"]
    assert [one.uri for one in read] == [installation.last.task("first").outputs["dataset"].uri]


def test_a_fan_out_in_several_loops_is_collected(
    installation: Installation, locally: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a setting that is a number of another step reaches the step that collects."""
    monkeypatch.setattr(compile, "MAX_ITEMS_BYTES", 300)
    trials = [make_step(f"trial[{i}]", "Emit", config={"values": {"x": i}}) for i in range(5)]
    plan = imaged(make_plan(
        make_step("probe", "Emit", config={"values": {"bias": 0.25}}),
        *trials,
        make_step(
            "sum", "Sum", {"metrics": [StepOutput(step.id, "metrics") for step in trials]},
            after=("probe",), metric_refs={"offset": MetricRef("probe", "metrics", "bias")},
        ),
    ))  # fmt: skip
    state = installation.submit(plan)
    loops = [name for name in installation.last.root.children if name.startswith("trial-items")]
    assert len(loops) > 1
    assert same(state, locally(plan))
    digest = state.steps["sum"].outputs["metrics"]
    assert installation.store.manifest(digest).metadata["x"] == 10.25


@pytest.mark.parametrize("score", [0.9, 0.1])
def test_conditions_decide_as_the_local_engine_does(
    installation: Installation, locally: Any, score: float
) -> None:
    """A step, a fan-out, and what stands behind them."""
    when = (
        Condition(MetricRef("probe", "metrics", "score"), ">=", 0.5),
        Condition(MetricRef("probe", "metrics", "score"), "<", 1.0),
    )
    trials = [
        make_step(f"trial[{i}]", "Emit", config={"values": {"x": i}}, when=when, after=("probe",))
        for i in range(2)
    ]
    plan = imaged(make_plan(
        make_step("probe", "Emit", config={"values": {"score": score}}),
        make_step("train", "Noop", config={"salt": "train"}, when=when, after=("probe",)),
        make_step("next", "Noop", {"dataset": StepOutput("train", "dataset")}),
        *trials,
        make_step("sum", "Sum", {"metrics": [StepOutput(step.id, "metrics") for step in trials]}),
        make_step("other", "Noop", config={"salt": "other"}, after=("probe",)),
    ))  # fmt: skip
    state = installation.submit(plan)
    taken = "succeeded" if score > 0.5 else "skipped"
    assert {statuses(state)[name] for name in ("train", "next", "trial[1]", "sum")} == {taken}
    assert statuses(state)["other"] == "succeeded"
    assert same(state, locally(plan))


def test_kfp_sees_metrics_pages_and_charts(
    installation: Installation, server: ObjectStore, locally: Any
) -> None:
    page = "<html><body>fine</body></html>"
    answers = [["yes", 0.9], ["no", 0.2], ["no", 0.7]]
    plan = imaged(make_plan(
        make_step("told", "Emit", config={"values": {"a/b": 1.0, "c": 2.5}, "report_html": page}),
        make_step("silent", "Emit", config={"text": "no report"}, optional_outputs=("report",)),
        make_step("scored", "crucible.testing.answers:Answer", config={"answers": answers}),
    ))  # fmt: skip
    state = installation.submit(plan)
    assert same(state, locally(plan))
    told, silent, scored = (installation.last.task(n).outputs for n in ("told", "silent", "scored"))
    numbers = {k: v for k, v in told["metrics"].metadata.items() if not k.startswith("crucible_")}
    assert numbers == {"a/b": 1, "c": 2.5}
    assert told["metrics"].schema_title == "system.Metrics"
    assert installation.kfp.objects.read(told["report.html"].uri) == page.encode()
    assert told["report.html"].schema_title == "system.HTML"
    assert installation.kfp.objects.read(silent["report"].uri) is None
    assert installation.kfp.objects.read(silent["report.html"].uri) is None
    chart = scored["predictions.classification"]
    assert chart.schema_title == "system.ClassificationMetrics"
    labels = chart.metadata["confusionMatrix"]["struct"]["annotationSpecs"]
    assert [label["displayName"] for label in labels] == ["no", "yes", "other"]
    assert chart.metadata["confidenceMetrics"]["list"][-1]["recall"] == 1


def test_a_chain_shares_a_pod(install: Install, locally: Any) -> None:
    plan = imaged(make_plan(
        make_step("first", "Noop", config={"salt": "a"}),
        make_step("second", "Noop", {"dataset": StepOutput("first", "dataset")}),
        make_step("third", "Noop", {"dataset": StepOutput("second", "dataset")}),
        make_step("aside", "Noop", config={"salt": "b"}),
    ))  # fmt: skip
    with install("chain_steps: true") as installation:
        state = installation.submit(plan)
    assert set(installation.last.states) == {"third", "aside"}
    assert same(state, locally(plan))
    shown = installation.last.task("third").outputs
    assert (
        shown["second.dataset"].metadata["crucible_digest"] == outputs(state)["second"]["dataset"]
    )


def test_a_failed_run_goes_on_where_it_stopped(installation: Installation, tmp_path: Path) -> None:
    """What was done stays done, a condition on it is decided when resuming."""
    once_too_often = {"state_path": str(tmp_path / "tries"), "failures": 3}
    when = (Condition(MetricRef("probe", "metrics", "score"), ">", 0.5),)
    plan = imaged(make_plan(
        make_step("probe", "Emit", config={"values": {"score": 1.0}}),
        make_step("shaky", "RaiseTemporary", config=once_too_often),
        make_step("guarded", "Noop", after=("probe", "shaky"), when=when),
        make_step("behind", "Noop", {"dataset": StepOutput("guarded", "dataset")}),
    ))  # fmt: skip
    failed = installation.submit(plan)
    assert failed.status is RunStatus.FAILED
    assert statuses(failed) == {
        "probe": "succeeded", "shaky": "failed", "guarded": "skipped", "behind": "skipped"
    }  # fmt: skip
    failure = failed.steps["shaky"].failure
    assert failure is not None
    assert (failure.cause.value, failure.exit_code) == ("temporary", 75)

    state = installation.end(installation.engine.resume(failed.run_id))
    assert set(statuses(state).values()) == {"succeeded"}
    assert state.run_id == failed.run_id
    assert state.steps["probe"].attempt == 1
    assert set(installation.last.states) == {"shaky", "guarded", "behind"}


def test_temporary_failures_are_met_inside_the_pod(
    installation: Installation, tmp_path: Path
) -> None:
    retry = Retry(limit=2, backoff_seconds=0.05)
    config = {"state_path": str(tmp_path / "tries"), "failures": 2}
    plan = imaged(make_plan(make_step("shaky", "RaiseTemporary", config=config, retry=retry)))
    state = installation.submit(plan)
    assert statuses(state) == {"shaky": "succeeded"}
    assert state.steps["shaky"].attempt == 3
    assert len(installation.last.task("shaky").attempts) == 1


def test_what_trying_again_cannot_mend_is_not_tried_again(installation: Installation) -> None:
    """KFP starts the pod again all the same; the step does not run in it."""
    plan = imaged(make_plan(make_step("bad", "Raise", config={"message": "broken for good"})))
    state = installation.submit(plan)
    failure = state.steps["bad"].failure
    assert failure is not None
    assert "broken for good" in failure.message
    assert state.steps["bad"].attempt == 1
    pods = installation.last.task("bad").attempts
    assert len(pods) == 1 + installation.context.step_retries
    assert "not tried again" in pods[-1].log


def test_a_killed_pod_goes_on_from_its_checkpoint(installation: Installation, locally: Any) -> None:
    config = {"until": 12, "checkpoint_every": 3, "pause_seconds": 0.25}
    plan = imaged(make_plan(make_step("count", "Count", config=config)))

    def has_checkpoint() -> bool:
        return any(installation.store.backend.listing(CHECKPOINTS))

    installation.kfp.faults.append(Fault("count", "kill", when=has_checkpoint))
    state = installation.submit(plan)
    assert [pod.phase for pod in installation.last.task("count").attempts] == [
        "failed",
        "succeeded",
    ]
    assert state.steps["count"].attempt == 2
    assert outputs(state) == outputs(locally(plan))
    assert not has_checkpoint()


def test_a_deleted_pod_is_lost_until_the_run_is_resumed(installation: Installation) -> None:
    """Argo tries a pod again that failed, and not one that somebody has deleted."""
    config = {"until": 12, "checkpoint_every": 3, "pause_seconds": 0.25}
    plan = imaged(make_plan(make_step("count", "Count", config=config)))
    backend = installation.store.backend
    fault = Fault("count", "delete", when=lambda: any(backend.listing(CHECKPOINTS)))
    installation.kfp.faults.append(fault)
    lost = installation.submit(plan)
    assert statuses(lost) == {"count": "failed"}
    assert phases(installation.last, "count") == ["error"]
    failure = lost.steps["count"].failure
    assert failure is not None
    assert failure.cause.value in ("killed", "engine-lost")

    installation.kfp.faults.clear()
    state = installation.end(installation.engine.resume(lost.run_id))
    assert statuses(state) == {"count": "succeeded"}


def test_a_cancelled_run_ends_its_pods_and_can_be_resumed(installation: Installation) -> None:
    config = {"until": 60, "checkpoint_every": 5, "pause_seconds": 0.1}
    plan = imaged(make_plan(
        make_step("count", "Count", config=config),
        make_step("behind", "Noop", {"dataset": StepOutput("count", "dataset")}),
    ))  # fmt: skip
    run_id = installation.engine.submit(plan)
    for state in installation.engine.watch(run_id):
        if any(installation.store.backend.listing(CHECKPOINTS)):
            break
        assert not state.status.is_final
    assert installation.engine.cancel(run_id).status is RunStatus.CANCELLED
    installation.kfp.join()
    assert phases(installation.last, "count") == ["failed"]
    state = installation.engine.state(run_id)
    assert statuses(state) == {"count": "cancelled", "behind": "cancelled"}
    state = installation.end(installation.engine.resume(run_id))
    assert statuses(state) == {"count": "succeeded", "behind": "succeeded"}


def test_a_compiled_pipeline_runs_without_us(installation: Installation) -> None:
    """Submitted by somebody else it goes under KFP's own id; there is no plan to go on with."""
    plan = imaged(make_plan(
        make_step("first", "Noop"),
        make_step("second", "Noop", {"dataset": StepOutput("first", "dataset")}),
    ))  # fmt: skip
    document = yaml.safe_load_all(to_yaml(compiled(plan, installation.context)))
    pipeline, platform = document
    api = PipelinesApi(installation.kfp.url, "kubeflow")
    run = api.create_run(
        "theirs", pipeline=pipeline, platform=platform, parameters={},
        experiment_id=api.experiment_id("theirs"), root=None, service_account=None,
    )  # fmt: skip
    state = installation.end(run.id)
    assert state.status is RunStatus.SUCCEEDED, installation.last.errors
    assert statuses(state)["second"] == "succeeded"
    journal = Journal(installation.store.backend, run.id)
    assert set(journal.outputs(["first", "second"])) == {"first", "second"}


def test_no_step_needs_an_artifact_of_kfp(installation: Installation, locally: Any) -> None:
    """The references come from the journal: a file that KFP lost is missed by nobody."""
    plan = imaged(make_plan(
        make_step("first", "Noop"),
        make_step("second", "Noop", {"dataset": StepOutput("first", "dataset")}),
    ))  # fmt: skip
    installation.kfp.faults.append(Fault("first", "lose", artifact="dataset"))
    state = installation.submit(plan)
    lost = installation.last.task("first").outputs["dataset"]
    assert installation.kfp.objects.read(lost.uri) is None
    assert same(state, locally(plan))


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory, server: ObjectStore) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


def releasing(accuracy: float, size_bytes: int) -> Plan:
    """Trains and evaluates a pretended model; it is good enough from 0.5 on."""
    gate = Gate(StepOutput("evaluate", "metrics"), (Threshold("accuracy", min=0.5),))
    return imaged(make_plan(
        make_step("evaluate", "Emit", config={"values": {"accuracy": accuracy}}),
        make_step("train", "MakeModel", config={"size_bytes": size_bytes}, after=("evaluate",)),
        name="releasing",
        on_exit=make_step("last", "crucible.testing.observers:DescribeRun", {"run": []}),
        release=Release(StepOutput("train", "model"), "tiny", gate),
    ))  # fmt: skip


@pytest.mark.slow
def test_a_good_model_is_released_and_mlflow_shows_the_run(mlflow: str, install: Install) -> None:
    with install(f"mlflow: {{uri: '{mlflow}'}}") as installation:
        good = installation.submit(releasing(0.8, 8))
        assert good.status is RunStatus.SUCCEEDED, installation.last.errors
        assert good.release is not None
        assert (good.release["outcome"], good.release["version"]) == ("promoted", 1)
        assert record(installation, good, "last")["release"]["version"] == 1

        bad = installation.submit(releasing(0.2, 9))
        assert bad.status is RunStatus.SUCCEEDED, installation.last.errors
        assert bad.release is not None
        assert (bad.release["outcome"], bad.release["version"]) == ("refused", 2)


def test_the_exit_step_knows_what_failed(installation: Installation) -> None:
    plan = imaged(make_plan(
        make_step("good", "Noop"),
        make_step("bad", "Raise"),
        make_step("behind", "Noop", {"dataset": StepOutput("bad", "dataset")}),
        on_exit=make_step("last", "crucible.testing.observers:DescribeRun", {"run": []}),
    ))  # fmt: skip
    state = installation.submit(plan)
    assert state.status is RunStatus.FAILED
    assert statuses(state) == {
        "good": "succeeded", "bad": "failed", "behind": "skipped", "last": "succeeded"
    }  # fmt: skip
    assert record(installation, state, "last")["statuses"] == {
        "good": "succeeded", "bad": "failed", "behind": "skipped", "last": "pending"
    }  # fmt: skip
