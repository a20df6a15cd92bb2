from collections.abc import Iterator
from pathlib import Path

import pytest

from crucible.artifacts import Store, open_store
from crucible.errors import ArtifactCorrupt, UserError
from crucible.journal import Journal
from crucible.journal.journal import run_ids, step_id_of, step_key
from crucible.testing.object_store import object_store


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    with object_store() as server:
        yield server.environ | {"uri": f"s3://{server.make_bucket()}/store"}


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "file":
        return open_store((tmp_path / "store").as_uri())
    environ: dict[str, str] = request.getfixturevalue("bucket")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return open_store(f"{environ['uri']}/{tmp_path.name}")


@pytest.fixture
def journal(store: Store) -> Journal:
    return Journal(store.backend, "run-1")


def test_events_come_in_the_order_of_their_times_and_each_step_in_its_own(journal: Journal) -> None:
    journal.append("run.submitted", run_id="run-1")
    first = journal.attempt("train", 1)
    first.start(pod="p1")
    first.end("step.retrying", failure={"cause": "temporary"}, delay_seconds=1)
    second = journal.attempt("train", 2)
    second.start(pod="p2")
    second.end(status="succeeded", outputs={"model": "sha256:1"})
    told = [(event["type"], event.get("attempt")) for event in journal.events()]
    assert told == [
        ("run.submitted", None),
        ("step.started", 1),
        ("step.retrying", 1),
        ("step.started", 2),
        ("step.ended", 2),
    ]


def test_what_was_read_once_is_not_read_again(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = journal.backend.read
    monkeypatch.setattr(journal.backend, "read", lambda key: read.append(key) or real(key))
    journal.attempt("a", 1).start()
    assert len(journal.events()) == len(read) == 1
    journal.attempt("a", 1).end(status="failed", outputs={})
    assert len(journal.events()) == len(read) == 2


def test_attempts_count_those_that_began(journal: Journal) -> None:
    assert journal.attempts("trial[3]") == []
    journal.attempt("trial[3]", 1).start()
    journal.attempt("trial[3]", 2).start()
    journal.attempt("trial[31]", 7).start()
    assert journal.attempts("trial[3]") == [1, 2]


def test_outputs_are_those_of_the_newest_attempt_that_went_well(journal: Journal) -> None:
    journal.attempt("a", 1).start()
    journal.attempt("a", 1).end(status="succeeded", outputs={"model": "sha256:old"})
    journal.attempt("a", 2).start()
    journal.attempt("a", 2).end(status="cached", outputs={"model": "sha256:new"})
    journal.attempt("a", 3).start()
    journal.attempt("b", 1).start()
    journal.attempt("b", 1).end(status="failed", outputs={})
    assert journal.outputs(["a", "b", "c"]) == {"a": {"model": "sha256:new"}}


def test_a_run_of_kfp_writes_only_under_an_id_that_was_given_to_it(journal: Journal) -> None:
    assert not journal.is_claimed_by("kfp-1")
    journal.claim("kfp-1", generation=1)
    journal.claim("kfp-2", generation=2)
    assert journal.is_claimed_by("kfp-1")
    assert [claim["kfp_run_id"] for claim in journal.claims()] == ["kfp-1", "kfp-2"]
    assert not Journal(journal.backend, "run-10").is_claimed_by("kfp-1")


def test_runs_do_not_see_each_other(store: Store) -> None:
    for run_id in ("run-1", "run-10"):
        Journal(store.backend, run_id).append("run.submitted", run_id=run_id)
    assert [e["run_id"] for e in Journal(store.backend, "run-1").events()] == ["run-1"]
    assert sorted(run_ids(store.backend)) == ["run-1", "run-10"]


def test_a_damaged_document_is_named(journal: Journal) -> None:
    attempt = journal.attempt("a", 1)
    attempt.start()
    journal.backend.write(f"{attempt.prefix}ended.json", b"{")
    with pytest.raises(ArtifactCorrupt, match=r"steps/a/0001/ended\.json is damaged"):
        journal.events()


@pytest.mark.parametrize("run_id", ["", "a/b", ".hidden", "with space", "x" * 129])
def test_ids_that_are_no_part_of_a_key_are_refused(store: Store, run_id: str) -> None:
    with pytest.raises(UserError, match="run id"):
        Journal(store.backend, run_id)


@pytest.mark.parametrize("step_id", ["train", "trial[0]", "trial[12]"])
def test_step_ids_survive_being_keys(step_id: str) -> None:
    assert step_id_of(step_key(step_id)) == step_id
