import pytest

from crucible.engines.kfp.api import PipelinesApi
from crucible.errors import (
    ClusterRefused,
    ClusterUnavailable,
    CrucibleError,
    RunNotFound,
    UserError,
)
from crucible.testing.kfp_server import Fault, KfpServer

RUNS = "/apis/v2beta1/runs"


def create(api: PipelinesApi, name: str = "r1") -> str:
    made = api.create_run(
        name,
        pipeline={"pipelineInfo": {"name": "p"}},
        platform={"platforms": {}},
        parameters={"run_id": name},
        experiment_id="e",
        root="s3://bucket/root",
        service_account="crucible-runner",
    )
    return made.id


def test_a_run_goes_there_and_comes_back(api: PipelinesApi, kfp: KfpServer) -> None:
    run_id = create(api)
    sent = kfp.runs[run_id]
    assert sent["pipeline_spec"] == {
        "pipeline_spec": {"pipelineInfo": {"name": "p"}},
        "platform_spec": {"platforms": {}},
    }
    assert sent["runtime_config"] == {
        "parameters": {"run_id": "r1"},
        "pipeline_root": "s3://bucket/root",
    }
    run = api.get_run(run_id)
    assert (run.name, run.state, run.is_final, run.ended_at) == ("r1", "PENDING", False, None)
    assert run.parameters == {"run_id": "r1"}
    assert run.pipeline_spec == {"pipelineInfo": {"name": "p"}}
    assert run.created_at > 1.7e9


def test_tasks_are_read(api: PipelinesApi, kfp: KfpServer) -> None:
    run_id = create(api)
    task = {
        "task_id": "t",
        "display_name": "train",
        "state": "RUNNING",
        "start_time": "2026-01-01T00:00:10Z",
        "end_time": "1970-01-01T00:00:00Z",
    }
    kfp.set_state(run_id, "RUNNING", run_details={"task_details": [task]})
    (found,) = api.get_run(run_id).tasks
    assert (found.name, found.state, found.ended_at) == ("train", "RUNNING", None)
    assert found.started_at == 1767225610.0


def test_a_run_that_was_ended_is_known_by_its_history(api: PipelinesApi, kfp: KfpServer) -> None:
    run_id = create(api)
    api.terminate(run_id)
    run = api.get_run(run_id)
    assert (run.state, run.was_cancelled, run.is_final) == ("FAILED", True, True)


def test_all_pages_are_listed_newest_first(api: PipelinesApi, kfp: KfpServer) -> None:
    names = [f"r{number}" for number in range(120)]
    for name in names:
        create(api, name)
    assert [run.name for run in api.runs()] == names[::-1]
    before = kfp.count("GET", RUNS)
    assert [run.name for run in api.runs(limit=3)] == ["r119", "r118", "r117"]
    assert kfp.count("GET", RUNS) == before + 1
    assert [run.name for run in api.find_runs("r7")] == ["r7"]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_temporary_fault_is_met_by_trying_again(
    api: PipelinesApi, kfp: KfpServer, status: int
) -> None:
    run_id = create(api)
    kfp.faults.append(Fault("GET", RUNS, "refuse", status=status, times=3))
    assert api.get_run(run_id).id == run_id
    assert kfp.count("GET", RUNS) == 4


@pytest.mark.parametrize("kind", ["lose-request", "lose-answer"])
def test_a_lost_connection_is_met_by_trying_again(
    api: PipelinesApi, kfp: KfpServer, kind: str
) -> None:
    run_id = create(api)
    kfp.faults.append(Fault("GET", RUNS, kind, times=2))  # type: ignore[arg-type]
    assert api.get_run(run_id).id == run_id


def test_patience_has_an_end(api: PipelinesApi, kfp: KfpServer) -> None:
    run_id = create(api)
    kfp.faults.append(Fault("GET", RUNS, "refuse", times=100))
    with pytest.raises(ClusterUnavailable, match="503: on purpose"):
        api.get_run(run_id)
    assert kfp.count("GET", RUNS) == 7


def test_a_server_that_is_not_there_is_named() -> None:
    api = PipelinesApi("http://127.0.0.1:9", "kubeflow", sleep=lambda seconds: None)
    with pytest.raises(ClusterUnavailable, match=r"127\.0\.0\.1:9 does not answer.*doctor"):
        api.check()


def test_what_changes_something_is_sent_once(api: PipelinesApi, kfp: KfpServer) -> None:
    kfp.faults.append(Fault("POST", RUNS, "lose-answer"))
    with pytest.raises(ClusterUnavailable):
        create(api)
    assert kfp.count("POST", RUNS) == 1
    assert len(kfp.runs) == 1


@pytest.mark.parametrize(
    ("status", "error", "text"),
    [
        (400, UserError, "400: .*Correct it"),
        (401, UserError, "401: .*log in again"),
        (403, ClusterRefused, "403: .*crucible-submitter"),
        (404, RunNotFound, "404: .*another context"),
    ],
)
def test_refusals_say_what_to_do(
    api: PipelinesApi, kfp: KfpServer, status: int, error: type[CrucibleError], text: str
) -> None:
    kfp.faults.append(Fault("GET", RUNS, "refuse", status=status))
    with pytest.raises(error, match=text):
        api.get_run("x")


def test_a_500_that_means_a_bad_pipeline_is_no_temporary_fault(
    api: PipelinesApi, kfp: KfpServer
) -> None:
    body = (
        '{"error": "unknown template format: pipeline spec is invalid\\n'
        'github.com/kubeflow/pipelines/backend/src/common/util.NewInternalServerError\\n\\t/go"}'
    )
    kfp.faults.append(Fault("POST", RUNS, "refuse", status=500, body=body))
    with pytest.raises(UserError, match="pipeline spec is invalid Correct it") as caught:
        create(api)
    assert "github.com" not in str(caught.value)


def test_a_renewed_token_is_used_at_once(kfp: KfpServer) -> None:
    tokens = iter(["one", "two"])
    api = PipelinesApi(kfp.url, "kubeflow", token=lambda: next(tokens))
    api.check()
    api.check()
    assert kfp.tokens == ["Bearer one", "Bearer two"]


def test_an_experiment_is_made_once(api: PipelinesApi, kfp: KfpServer) -> None:
    assert api.experiment_id("quickstart") == api.experiment_id("quickstart")
    assert [known["namespace"] for known in kfp.experiments.values()] == ["kubeflow"]


def test_an_experiment_whose_making_was_not_heard_of_is_found(
    api: PipelinesApi, kfp: KfpServer
) -> None:
    kfp.faults.append(Fault("POST", "/apis/v2beta1/experiments", "lose-answer"))
    assert api.experiment_id("quickstart") in kfp.experiments
    assert len(kfp.experiments) == 1
