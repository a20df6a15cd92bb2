import json

import pytest

from crucible.artifacts import Store
from crucible.engines.kfp.api import PipelinesApi
from crucible.engines.kfp.compile import compile_plan
from crucible.engines.kfp.submission import Submission, begin_run, submit
from crucible.errors import ClusterUnavailable, UserError
from crucible.journal import Journal
from crucible.plan.serialise import plan_from_json
from crucible.testing.kfp_server import Fault, KfpServer
from crucible.testing.plans import noop_chain

from .conftest import MakeContext

RUNS = "/apis/v2beta1/runs"


@pytest.fixture
def submission(make_context: MakeContext) -> Submission:
    document = compile_plan(noop_chain(2), make_context())
    return Submission("run-1", 1, document, service_account="crucible-runner")


@pytest.fixture
def journal(store: Store) -> Journal:
    return Journal(store.backend, "run-1")


def quietly(api: PipelinesApi, journal: Journal, submission: Submission) -> str:
    return submit(api, journal, submission, sleep=lambda seconds: None).id


def test_a_submission_is_one_run_and_claimed(
    api: PipelinesApi, kfp: KfpServer, journal: Journal, submission: Submission
) -> None:
    kfp_run_id = quietly(api, journal, submission)
    assert journal.is_claimed_by(kfp_run_id)
    run = kfp.runs[kfp_run_id]
    assert run["display_name"] == "run-1"
    assert run["runtime_config"]["parameters"] == {"run_id": "run-1"}
    assert run["service_account"] == "crucible-runner"


@pytest.mark.parametrize("kind", ["lose-request", "lose-answer", "refuse"])
def test_an_answer_that_is_lost_makes_no_second_run(
    api: PipelinesApi, kfp: KfpServer, journal: Journal, submission: Submission, kind: str
) -> None:
    kfp.faults.append(Fault("POST", RUNS, kind, times=2))  # type: ignore[arg-type]
    kfp_run_id = quietly(api, journal, submission)
    assert list(kfp.runs) == [kfp_run_id]
    assert journal.is_claimed_by(kfp_run_id)


def test_a_submission_that_was_killed_is_gone_on_with(
    api: PipelinesApi, kfp: KfpServer, journal: Journal, submission: Submission
) -> None:
    kfp.faults.append(Fault("POST", RUNS, "lose-answer"))
    kfp.faults.append(Fault("GET", RUNS, "refuse", status=401, times=1))
    with pytest.raises(UserError):
        quietly(api, journal, submission)  # like a kill: after the request, before the claim
    assert not journal.claims()
    kfp_run_id = quietly(api, journal, submission)
    assert list(kfp.runs) == [kfp_run_id]


def test_a_second_run_of_the_same_name_is_ended(
    api: PipelinesApi, kfp: KfpServer, journal: Journal, submission: Submission
) -> None:
    first = quietly(api, journal, submission)
    late = json.loads(json.dumps(kfp.runs[first])) | {"run_id": "late", "state": "PENDING"}
    kfp.runs["late"] = late | {"created_at": "2099-01-01T00:00:00Z"}
    assert quietly(api, journal, submission) == first
    assert kfp.runs["late"]["state"] == "FAILED"
    assert kfp.runs[first]["state"] == "PENDING"
    assert not journal.is_claimed_by("late")


def test_a_server_that_stays_away_is_a_temporary_fault(
    api: PipelinesApi, kfp: KfpServer, journal: Journal, submission: Submission
) -> None:
    kfp.faults.append(Fault("POST", RUNS, "refuse", times=1000))
    with pytest.raises(ClusterUnavailable):
        quietly(api, journal, submission)
    assert not journal.claims()


def test_a_later_generation_has_a_name_of_its_own(
    api: PipelinesApi, kfp: KfpServer, journal: Journal, submission: Submission
) -> None:
    first = quietly(api, journal, submission)
    again = Submission("run-1", 2, submission.document, service_account="x")
    second = quietly(api, journal, again)
    assert first != second
    assert kfp.runs[second]["display_name"] == "run-1-resume-2"
    assert kfp.runs[second]["runtime_config"]["parameters"] == {"run_id": "run-1"}


def test_the_plan_is_kept_before_anybody_is_told(journal: Journal) -> None:
    plan = noop_chain(2)
    assert begin_run(journal, plan, context="test")
    stored = journal.read_stored_plan(plan.digest)
    assert stored is not None
    assert plan_from_json(json.loads(stored)) == plan
    (event,) = journal.events()
    assert (event["type"], event["plan_digest"], event["context"]) == (
        "run.submitted",
        plan.digest,
        "test",
    )
    assert not begin_run(journal, plan)
    assert len(journal.events()) == 1


def test_an_id_belongs_to_one_plan(journal: Journal) -> None:
    begin_run(journal, noop_chain(2))
    with pytest.raises(UserError, match="run-1 belongs to a run of another plan"):
        begin_run(journal, noop_chain(3))
