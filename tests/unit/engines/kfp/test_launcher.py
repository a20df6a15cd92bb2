"""The launcher's process against a stand-in for the Kubernetes API; the test plays Trainer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from crucible.artifacts import Store, open_store
from crucible.artifacts.cache import CacheEntry
from crucible.engines.kfp import launcher
from crucible.engines.kfp.trainjob import OWNER_LABEL, JobIdentity, TrainJobRequest
from crucible.journal import Journal
from crucible.sdk.executor import StepParameters, build_executor_input, read_executor_output
from crucible.sdk.failure import FILE_NAME, FailureRecord, read_failure
from crucible.sdk.pod.board import Board, RankFailure
from crucible.sdk.process import unwinding_on_signals
from crucible.sdk.runner import deliver
from crucible.sdk.types import ArtifactType
from crucible.testing.kube_api import KubeApi, kube_api

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/runs/trainjobs"
PODS = "/api/v1/namespaces/runs/pods"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
FINGERPRINT = "sha256:" + "1" * 64
Json = dict[str, Any]


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeApi]:
    monkeypatch.setattr(launcher, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(launcher, "_SETTLE_SECONDS", 0.3)
    monkeypatch.setenv("CRUCIBLE_STORE", (tmp_path / "store").as_uri())
    monkeypatch.setenv("CRUCIBLE_EVENTS", str(tmp_path / "events.jsonl"))
    monkeypatch.setenv("KFP_POD_NAME", "step-pod")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    with kube_api() as running:
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump({
            "current-context": "here",
            "clusters": [{"name": "c", "cluster": {"server": running.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
        }))  # fmt: skip
        running.put(PODS, {"metadata": {"name": "step-pod"}, "spec": {}, "status": {}})
        yield running


def install_trainer(api: KubeApi) -> None:
    schema = {"properties": {"spec": {"properties": {"runtimePatches": {"type": "array"}}}}}
    version = {"name": "v1alpha1", "served": True, "schema": {"openAPIV3Schema": schema}}
    name = "trainjobs.trainer.kubeflow.org"
    api.put(DEFINITIONS, {"metadata": {"name": name}, "spec": {"versions": [version]}})


@dataclass
class Launching:
    """A launcher that runs in a thread, since the test is what it waits for."""

    folder: Path
    store: Store
    attempt: int = 2
    exit_code: int | None = None
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.board = Board(
            self.store.backend, Journal(self.store.backend, "r").attempt("s", 2).prefix
        )
        self.request = build_executor_input(
            step=StepParameters("r", "s", FINGERPRINT, attempt=self.attempt),
            config={},
            inputs={},
            outputs={"dataset": ArtifactType("Dataset", "any")},
            attempt_dir=self.folder,
        )
        (self.folder / "in.json").write_text(json.dumps(self.request.to_json()))
        job = TrainJobRequest(
            namespace="runs", runtime="r", image="i", nodes=2, processes_per_node=1, memory_gib=1.0,
            resources={}, env=[], pod={}, queue=None, timeout_seconds=None,
            queued_timeout_seconds=None,
        )  # fmt: skip
        (self.folder / "job.json").write_text(json.dumps(asdict(job)))
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.exit_code = launcher.main(
            [
                "some:Component",
                *("--executor-input", f"@{self.folder / 'in.json'}"),
                *("--trainjob", str(self.folder / "job.json")),
                *("--attempt-prefix", self.board.attempt_prefix),
            ]
        )

    def end(self) -> int | None:
        self.thread.join(timeout=30)
        assert not self.thread.is_alive()
        return self.exit_code

    @property
    def failure(self) -> FailureRecord | None:
        return read_failure(self.folder / FILE_NAME)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture
def launch(api: KubeApi, tmp_path: Path, store: Store) -> Callable[[], Launching]:
    return lambda: Launching(tmp_path / "attempt", store)


def job_of(api: KubeApi, name: str) -> Json:
    """The TrainJob of that name, once it is there."""
    deadline = time.monotonic() + 20
    while (
        found := api.objects.get(("trainer.kubeflow.org/v1alpha1/trainjobs", "runs", name))
    ) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return dict(found)


def finish(api: KubeApi, job: Json, type_: str) -> None:
    condition = {"type": type_, "status": "True", "reason": "r", "message": "m"}
    api.put(JOBS, {**job, "status": {"conditions": [condition]}})


def write_dataset(launching: Launching, folder: Path) -> str:
    """What rank 0 of the job would store and put up; returns the digest."""
    draft = launching.store.draft(folder)
    draft.new_file("records.jsonl").write_text("{}\n")
    ref = draft.commit(type="Dataset", variant="any", metadata={}, producer={}, parents=())
    own = folder / "rank"
    request = build_executor_input(
        step=launching.request.step,
        config={},
        inputs={},
        outputs={"dataset": ArtifactType("Dataset", "any")},
        attempt_dir=own,
    )
    with unwinding_on_signals():
        deliver(request, {"dataset": ref})
    launching.board.write_output(request.output_file)
    return ref.digest


NAME = JobIdentity("r", "s", 2).name


def test_a_job_that_ends_well_leaves_what_a_step_leaves(
    api: KubeApi, launch: Callable[[], Launching], tmp_path: Path
) -> None:
    install_trainer(api)
    launching = launch()
    job = job_of(api, NAME)
    assert job["spec"]["trainer"]["args"] == ["some:Component"]
    digest = write_dataset(launching, tmp_path)
    finish(api, job, "Complete")
    assert launching.end() == 0
    written = read_executor_output(launching.request.output_file)
    assert written["dataset"].metadata["crucible_digest"] == digest
    assert digest in written["dataset"].path.read_text()
    job_of(api, NAME)  # stays for people to look at


def test_what_an_earlier_attempt_left_running_goes_first(
    api: KubeApi, launch: Callable[[], Launching]
) -> None:
    install_trainer(api)
    earlier = JobIdentity("r", "s", 1)
    api.put(JOBS, {"metadata": {"name": earlier.name, "labels": earlier.labels}, "spec": {}})
    other = JobIdentity("r", "other", 1)
    api.put(JOBS, {"metadata": {"name": other.name, "labels": other.labels}, "spec": {}})
    pod = {"name": "p", "labels": {"jobset.sigs.k8s.io/jobset-name": earlier.name}}
    api.put(PODS, {"metadata": pod, "spec": {}, "status": {"phase": "Running"}})
    launching = launch()
    kind = "trainer.kubeflow.org/v1alpha1/trainjobs"
    deadline = time.monotonic() + 20
    while (kind, "runs", earlier.name) in api.objects:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)  # its pod still runs
    assert {name for (found, _, name) in api.objects if found == kind} == {other.name}
    api.remove(PODS, "p")
    finish(api, job_of(api, NAME), "Failed")
    assert launching.end() == 1


def test_a_failed_job_gives_the_cause_that_its_rank_gave(
    api: KubeApi, launch: Callable[[], Launching]
) -> None:
    install_trainer(api)
    launching = launch()
    job = job_of(api, NAME)
    record = FailureRecord("user-error", "steps.s.with.x: no.", "Mend it.", 2)
    launching.board.write_failures(1, [RankFailure(1, 1, 5.0, record)])
    finish(api, job, "Failed")
    assert launching.end() == 2
    assert launching.failure is not None
    assert launching.failure.cause == "user-error"
    assert launching.failure.message == "rank 1 on node 1: steps.s.with.x: no."


def test_a_job_that_says_complete_without_an_output_has_failed(
    api: KubeApi, launch: Callable[[], Launching]
) -> None:
    install_trainer(api)
    launching = launch()
    finish(api, job_of(api, NAME), "Complete")
    assert launching.end() == 1
    assert launching.failure is not None
    assert "ended without an output" in launching.failure.message


def test_a_job_that_somebody_deletes_is_told(api: KubeApi, launch: Callable[[], Launching]) -> None:
    install_trainer(api)
    launching = launch()
    job_of(api, NAME)
    time.sleep(0.3)
    api.remove(JOBS, NAME)
    assert launching.end() == 1
    assert launching.failure is not None
    assert launching.failure.message == f"TrainJob {NAME} was deleted"


def test_without_trainer_it_is_said(launch: Callable[[], Launching]) -> None:
    launching = launch()
    assert launching.end() == 2
    assert launching.failure is not None
    assert "needs Kubeflow Trainer, and this cluster has none" in launching.failure.message


def test_without_a_pod_nothing_is_made(
    api: KubeApi, launch: Callable[[], Launching], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_trainer(api)
    monkeypatch.setenv("KFP_POD_NAME", "another")
    launching = launch()
    assert launching.end() == 1
    assert launching.failure is not None
    assert "is in no pod 'another'" in launching.failure.message


def test_what_the_cache_has_needs_no_job(
    api: KubeApi, launch: Callable[[], Launching], store: Store, tmp_path: Path
) -> None:
    draft = store.draft(tmp_path)
    draft.new_file("records.jsonl").write_text("{}\n")
    ref = draft.commit(type="Dataset", variant="any", metadata={}, producer={}, parents=())
    store.cache_put(FINGERPRINT, CacheEntry({"dataset": ref.digest}, "before", {}))
    launching = launch()
    assert launching.end() == 0
    written = read_executor_output(launching.request.output_file)
    assert written["dataset"].metadata["crucible_cached_from"] == "before"
    assert api.requests == []


def test_the_owner_is_the_pod_of_the_launcher(
    api: KubeApi, launch: Callable[[], Launching]
) -> None:
    install_trainer(api)
    launching = launch()
    job = job_of(api, NAME)
    uid = api.objects[("v1/pods", "runs", "step-pod")]["metadata"]["uid"]
    [owner] = job["metadata"]["ownerReferences"]
    assert (owner["name"], owner["uid"], job["metadata"]["labels"][OWNER_LABEL]) == (
        "step-pod", uid, uid,
    )  # fmt: skip
    finish(api, job, "Failed")
    launching.end()
