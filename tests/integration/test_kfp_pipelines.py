"""The same plan gives the same artifacts on the KFP engine as on the local one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from crucible.engines.kfp import compile
from crucible.engines.kfp.api import PipelinesApi
from crucible.engines.kfp.document import compiled, to_yaml
from crucible.engines.state import RunStatus
from crucible.journal import Journal
from crucible.plan.model import (
    Condition,
    Gate,
    MetricRef,
    Plan,
    Release,
    StepOutput,
    Threshold,
)
from crucible.testing.mlflow_server import mlflow_server
from crucible.testing.object_store import ObjectStore
from crucible.testing.plans import make_plan, make_step

from .conftest import Install, Installation, imaged, outputs, record, same, statuses


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


def test_settings_full_of_braces_come_through(installation: Installation, locally: Any) -> None:
    """KFP's launcher and Argo replace what stands in two of them."""
    template = "{{workflow.name}} {{$.inputs.parameters['step']}} {{ messages[0]['content'] }}"
    plan = imaged(make_plan(
        make_step("one", "Noop", config={"salt": template}),
        *(make_step(f"each[{i}]", "Noop", config={"salt": f"{template}{i}"}) for i in range(2)),
    ))  # fmt: skip
    state = installation.submit(plan)
    assert set(statuses(state).values()) == {"succeeded"}
    assert same(state, locally(plan))


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
