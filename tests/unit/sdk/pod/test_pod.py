"""Who a pod's run is, and how its steps are tried."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from crucible.artifacts import ArtifactRef, Store, open_store
from crucible.artifacts.file_backend import FileBackend
from crucible.errors import EXIT_TEMPORARY, StoreUnavailable
from crucible.journal import Journal
from crucible.sdk.pod import child, relay, reporter
from crucible.sdk.pod.main import run_pod
from crucible.sdk.pod.pod import Pod, resolve_run_id
from crucible.sdk.pod.request import PodRequest

COMPONENTS = "crucible.testing.components"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    uri = (tmp_path / "store").as_uri()
    for name in ("MLFLOW_TRACKING_URI", "KFP_RETRY_INDEX", "CRUCIBLE_RETRY_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CRUCIBLE_STORE", uri)
    monkeypatch.setenv("CRUCIBLE_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("CRUCIBLE_RETRY_BACKOFF_SECONDS", "0")
    (tmp_path / "scratch").mkdir()
    return open_store(uri)


@pytest.fixture
def journal(store: Store) -> Journal:
    journal = Journal(store.backend, "r1")
    journal.claim("k1", generation=1)
    return journal


Request = Callable[..., PodRequest]


def step(step_id: str, component: str, **fields: Any) -> dict[str, Any]:
    return {
        "step_id": step_id,
        "component": f"{COMPONENTS}:{component}",
        "fingerprint": f"sha256:{step_id:0<64}".replace("_", "0"),
        "inputs": {},
        "outputs": {"dataset": {"name": "Dataset", "variant": "any"}},
        "config": {},
        **fields,
    }


@pytest.fixture
def request_for(tmp_path: Path) -> Request:
    def request_for(*members: dict[str, Any], run_id: str = "r1", kfp: str = "k1") -> PodRequest:
        chained = len(members) > 1
        names = [
            f"{member['step_id']}.{name}" if chained else name
            for member in members
            for name in member["outputs"]
        ]
        artifacts = {
            name: {"artifacts": [{"name": name, "uri": str(tmp_path / "out" / name)}]}
            for name in names
        }
        config = members[0]["config"]
        parameters = {"run_id": run_id, "kfp_run_id": kfp, "plan": "sha256:p"}
        work = {"chain": list(members)} if chained else {"step": members[0], "config": config}
        text = {
            "inputs": {"parameterValues": {**parameters, **work}},
            "outputs": {"artifacts": artifacts, "outputFile": str(tmp_path / "out.json")},
        }
        parsed = PodRequest.parse(json.dumps(text))
        assert parsed is not None
        return parsed

    return request_for


def test_a_claimed_run_keeps_its_id(store: Store, journal: Journal, request_for: Request) -> None:
    assert resolve_run_id(request_for(step("a", "Noop")), store) == "r1"


def test_a_copy_of_a_run_goes_under_its_own_id(
    store: Store, journal: Journal, request_for: Request
) -> None:
    waits: list[float] = []
    copy = request_for(step("a", "Noop"), kfp="k2")
    assert resolve_run_id(copy, store, waits.append) == "k2"
    assert sum(waits) == 30.0
    Journal(store.backend, "k2").attempt("a", 1).start()
    assert resolve_run_id(copy, store, waits.append) == "k2"
    assert sum(waits) == 30.0


def test_a_claim_that_comes_late_is_waited_for(
    store: Store, journal: Journal, request_for: Request
) -> None:
    late = request_for(step("a", "Noop"), kfp="k2")

    def claim(seconds: float) -> None:
        journal.claim("k2", generation=2)

    assert resolve_run_id(late, store, claim) == "r1"


def test_without_a_run_id_it_is_kfps(store: Store, request_for: Request) -> None:
    assert resolve_run_id(request_for(step("a", "Noop"), run_id=""), store) == "k1"


def test_a_step_leaves_references_and_its_story(
    store: Store, journal: Journal, request_for: Request, tmp_path: Path
) -> None:
    request = request_for(step("a", "Noop", config={"salt": "x"}))
    assert run_pod(request) == 0
    ref = ArtifactRef.read(tmp_path / "out" / "dataset")
    with store.reader(ref).open("records.jsonl") as lines:
        assert json.loads(lines.read())["salt"] == "x"
    started, ended = journal.events()
    assert (started["type"], started["kfp_run_id"]) == ("step.started", "k1")
    assert (ended["status"], ended["outputs"]) == ("succeeded", {"dataset": ref.digest})
    assert "crucible.sdk.runner: done" in journal.log("a", 1).read().decode()
    written = json.loads((tmp_path / "out.json").read_text())["artifacts"]["dataset"]
    metadata = written["artifacts"][0]["metadata"]
    assert metadata["crucible_digest"] == ref.digest
    assert all(isinstance(value, (str, int, float)) for value in metadata.values())


def test_a_second_pod_finds_the_first_ones_work(
    store: Store, journal: Journal, request_for: Request
) -> None:
    request = request_for(step("a", "Noop"))
    assert run_pod(request) == run_pod(request) == 0
    ended = [event for event in journal.events() if event["type"] == "step.ended"]
    assert [event["status"] for event in ended] == ["succeeded", "cached"]
    assert ended[0]["outputs"] == ended[1]["outputs"]


def test_a_chain_passes_its_outputs_on(
    store: Store, journal: Journal, request_for: Request, tmp_path: Path
) -> None:
    reads = {"dataset": [{"step": "a", "output": "dataset"}]}
    assert run_pod(request_for(step("a", "Noop"), step("b", "Noop", inputs=reads))) == 0
    first, second = (ArtifactRef.read(tmp_path / "out" / f"{s}.dataset") for s in "ab")
    assert second.manifest.parents == (first.digest,)


def test_a_failed_step_says_why_and_leaves_nothing_for_kfp(
    store: Store, journal: Journal, request_for: Request, tmp_path: Path
) -> None:
    assert run_pod(request_for(step("a", "Raise", config={"message": "no luck"}))) == 1
    ended = journal.events()[-1]
    assert ended["status"] == "failed"
    assert ended["failure"]["cause"] == "raised"
    assert "no luck" in ended["failure"]["message"]
    assert any("no luck" in line for line in ended["failure"]["log_tail"])
    assert not (tmp_path / "out.json").exists()


def test_what_failed_for_good_is_not_tried_again_by_the_next_pod(
    store: Store, journal: Journal, request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_for(step("a", "Raise"))
    assert run_pod(request) == 1
    monkeypatch.setenv("KFP_RETRY_INDEX", "1")
    assert run_pod(request) == 1
    assert journal.attempts("a") == [1]
    monkeypatch.setenv("KFP_RETRY_INDEX", "0")  # somebody pressed retry
    assert run_pod(request) == 1
    assert journal.attempts("a") == [1, 2]


def test_a_lost_pod_is_tried_again(
    store: Store, journal: Journal, request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.attempt("a", 1).start()
    monkeypatch.setenv("KFP_RETRY_INDEX", "1")
    assert run_pod(request_for(step("a", "Noop"))) == 0
    assert journal.attempts("a") == [1, 2]


@pytest.mark.parametrize(("limit", "code", "attempts"), [("2", 0, [1, 2, 3]), ("1", 75, [1, 2])])
def test_temporary_faults_are_tried_again_by_the_pod_itself(
    store: Store,
    journal: Journal,
    request_for: Request,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    code: int,
    attempts: list[int],
) -> None:
    monkeypatch.setenv("CRUCIBLE_RETRY_LIMIT", limit)
    config = {"state_path": str(tmp_path / "tries"), "failures": 2}
    assert run_pod(request_for(step("a", "RaiseTemporary", config=config))) == code
    assert journal.attempts("a") == attempts
    kinds = [event["type"] for event in journal.events()]
    assert kinds.count("step.retrying") == len(attempts) - 1


def test_a_missing_input_is_the_steps_own_failure(
    store: Store, journal: Journal, request_for: Request
) -> None:
    reads = {"metrics": [{"step": "nobody", "output": "metrics"}]}
    made = {"metrics": {"name": "Metrics", "variant": "any"}}
    assert run_pod(request_for(step("a", "Sum", inputs=reads, outputs=made))) == 2
    assert journal.events()[-1]["failure"]["cause"] == "user-error"


def test_numbers_for_conditions_are_output_parameters(
    store: Store, journal: Journal, request_for: Request, tmp_path: Path
) -> None:
    made = {
        "dataset": {"name": "Dataset", "variant": "any"},
        "metrics": {"name": "Metrics", "variant": "any"},
    }
    wanted = {"a.metrics.x": {"step": "a", "output": "metrics", "metric": "x"}}
    config = {"values": {"x": 0.25}}
    emit = step("a", "Emit", outputs=made, config=config, parameters=wanted)
    emit["outputs"]["report"] = {"name": "Report", "variant": "any"}
    assert run_pod(request_for(emit)) == 0
    assert json.loads((tmp_path / "out.json").read_text())["parameterValues"] == {
        "a.metrics.x": 0.25
    }
    emit["parameters"] = {"a.metrics.y": {"step": "a", "output": "metrics", "metric": "y"}}
    assert run_pod(request_for(emit)) == 2
    assert "has no metric 'y'" in journal.events()[-1]["failure"]["message"]


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_step_ends_at_its_timeout_and_is_not_tried_again(
    store: Store,
    journal: Journal,
    request_for: Request,
    monkeypatch: pytest.MonkeyPatch,
    stubborn: bool,
) -> None:
    """By its own pod, whose exit code KFP would take for a reason to try again."""
    monkeypatch.setattr(child, "GRACE_SECONDS", 0.5)
    monkeypatch.setenv("CRUCIBLE_RETRY_LIMIT", "2")
    config = {"ignore_sigterm": stubborn}
    request = request_for(step("a", "Hang", config=config, timeout_minutes=0.05))
    assert run_pod(request) == (128 + signal.SIGKILL if stubborn else 128 + signal.SIGTERM)
    monkeypatch.setenv("KFP_RETRY_INDEX", "1")
    assert run_pod(request) != 0
    assert journal.attempts("a") == [1]
    failure = journal.events()[-1]["failure"]
    assert failure["cause"] == "timeout"
    assert failure["message"] == "ended after its timeout of 0.05 minutes"


def test_a_pod_that_must_go_says_so_before_its_step_has_ended(
    store: Store, journal: Journal, request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a second: Argo's executor ends with KFP's launcher, and that at once."""
    monkeypatch.setattr(child, "GRACE_SECONDS", 3.0)
    told_at: list[float] = []

    def ask_to_end() -> None:
        while b"config" not in journal.log("a", 1).read():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        asked_at = time.monotonic()
        while journal.attempt("a", 1).ended() is None:
            time.sleep(0.01)
        told_at.append(time.monotonic() - asked_at)

    monkeypatch.setattr(reporter, "CADENCE_SECONDS", 0.1)
    asking = threading.Thread(target=ask_to_end)
    asking.start()
    config = {"ignore_sigterm": True}
    assert run_pod(request_for(step("a", "Hang", config=config))) == 128 + signal.SIGTERM
    asking.join()
    assert told_at[0] < 2.0 < child.GRACE_SECONDS
    [ended] = [event for event in journal.events() if event["type"] == "step.ended"]
    assert ended["failure"]["cause"] == "killed"


@pytest.mark.parametrize("lost", ["ended.json", "started.json"])
def test_a_store_that_is_away_when_a_step_begins_or_ends(
    store: Store,
    journal: Journal,
    request_for: Request,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    lost: str,
) -> None:
    """Nobody is told that a step is done before the journal knows; the next pod finds its work."""
    write, fail = FileBackend.write, [True]

    def fails_once(self: FileBackend, key: str, data: bytes, *, durable: bool = True) -> None:
        if key.endswith(lost) and fail:
            fail.clear()
            raise StoreUnavailable("the store does not answer")
        write(self, key, data, durable=durable)

    monkeypatch.setattr(FileBackend, "write", fails_once)
    request = request_for(step("a", "Noop"))
    assert run_pod(request) == EXIT_TEMPORARY
    assert not (tmp_path / "out.json").exists()
    assert journal.outputs(["a"]) == {}
    monkeypatch.setenv("KFP_RETRY_INDEX", "1")
    assert run_pod(request) == 0
    status = "cached" if lost == "ended.json" else "succeeded"
    assert journal.events()[-1]["status"] == status
    assert journal.outputs(["a"]).keys() == {"a"}


@pytest.mark.parametrize(
    ("script", "said"), [("trap '' TERM; sleep 60 & wait", -9), ("exit 75", 75)]
)
def test_a_step_does_not_fail_because_mlflow_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, script: str, said: int
) -> None:
    with subprocess.Popen(["sh", "-c", script]) as process:
        monkeypatch.setattr(relay, "_start", lambda pod: process)
        monkeypatch.setattr(relay, "_PATIENCE_SECONDS", 0.5)
        if said > 0:
            process.wait()
        with relay.Relay(cast(Pod, None)) as telling:
            time.sleep(0.2)
            telling.start()
    assert process.returncode == said
    assert "MLflow does not have all of this step yet" in caplog.text
