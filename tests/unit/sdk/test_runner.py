import contextlib
import json
import os
import random
import signal
import sys
import time
from typing import Any

import pytest

from crucible.artifacts import ArtifactRef
from crucible.sdk.catalogue import load_component
from crucible.sdk.fingerprint import code_digest


def record(store: Any, ref: ArtifactRef) -> dict[str, Any]:
    with store.reader(ref).open("records.jsonl") as stream:
        return dict(json.loads(stream.read()))


def test_outputs_are_references_and_the_executor_output_names_them(bench: Any) -> None:
    done = bench.run("Emit", {"text": "hello", "values": {"accuracy": 0.5}})
    assert done.exit_code == 0, done.log
    assert done.failure is None
    assert record(bench.store, done.ref("dataset")) == {"id": "0", "text": "hello"}
    assert done.outputs.keys() == {"dataset", "metrics"}
    metrics = done.ref("metrics")
    assert done.outputs["metrics"].metadata == {
        "accuracy": 0.5,
        "crucible_digest": metrics.digest,
        "crucible_type": "Metrics",
        "crucible_variant": "any",
    }
    assert metrics.manifest.producer == {
        "component": "test-emit",
        "version": "1",
        "fingerprint": done.request.step.fingerprint,
    }
    assert [event["values"] for event in done.events] == [{"accuracy": 0.5}]


def test_parents_are_the_digests_of_the_inputs(bench: Any) -> None:
    first = bench.run("Emit", {"values": {"a": 1.0}})
    second = bench.run("Emit", {"values": {"a": 2.0, "b": 1.0}})
    paths = [done.request.outputs["metrics"].path for done in (first, second)]
    done = bench.run("Sum", {"offset": 10}, {"metrics": paths})
    assert done.exit_code == 0, done.log
    manifest = done.ref("metrics").manifest
    assert manifest.parents == tuple(
        sorted({first.ref("metrics").digest, second.ref("metrics").digest})
    )
    assert manifest.metadata == {"a": 13.0, "b": 11.0}


def test_log_begins_with_what_runs_and_ends_with_what_came_out(bench: Any) -> None:
    done = bench.run("Noop", {"salt": "x"}, cpus=2.0)
    lines = done.log.splitlines()
    assert "test-noop version 1, step only of run r1, attempt 1" in lines[0]
    assert '{"salt":"x"}' in lines[1]
    assert "2 threads for 2 cpus" in lines[2]
    assert done.ref("dataset").digest in lines[-1]


def test_scratch_is_gone_and_the_store_holds_no_staging(bench: Any) -> None:
    done = bench.run("Noop")
    assert not list((done.attempt_dir / "scratch").iterdir())
    assert not list((bench.folder / "store").glob("staging/*"))


def test_optional_output_may_stay_unwritten(bench: Any) -> None:
    done = bench.run("Emit", {"report_html": "<p>x</p>"})
    assert done.outputs.keys() == {"dataset", "metrics", "report"}


def test_optional_input_may_be_absent_or_unwritten(bench: Any) -> None:
    first = bench.run("Emit")
    with_input = bench.run("Noop", {}, {"dataset": [first.request.outputs["dataset"].path]})
    assert record(bench.store, with_input.ref("dataset"))["input"] == first.ref("dataset").digest
    unwritten = bench.run("Noop", {}, {"dataset": [bench.folder / "never-written"]})
    assert unwritten.exit_code == 0, unwritten.log
    assert record(bench.store, unwritten.ref("dataset"))["input"] is None


def test_output_takes_the_variant_of_its_input(bench: Any) -> None:
    model = bench.run("MakeModel", {"variant": "vision-language"})
    copy = bench.run("CopyModel", {}, {"model": [model.request.outputs["model"].path]})
    assert copy.ref("model").manifest.variant == "vision-language"
    seen = bench.run("WantVision", {}, {"model": [copy.request.outputs["model"].path]})
    assert seen.exit_code == 0, seen.log


def test_metric_refs_are_put_into_the_config(bench: Any) -> None:
    first = bench.run("Emit", {"values": {"a": 1.0}})
    inputs = {"metrics": [first.request.outputs["metrics"].path]}
    done = bench.run("Sum", {}, inputs, metric_refs={"offset": 0.25})
    assert done.ref("metrics").manifest.metadata == {"a": 1.25}


def test_two_runs_give_equal_digests(bench: Any) -> None:
    first = bench.run("Noop", {"salt": "x"}, fingerprint="sha256:" + "ab" * 32, cache=False)
    again = bench.run(
        "Noop",
        {"salt": "x"},
        fingerprint="sha256:" + "ab" * 32,
        cache=False,
        run_id="r2",
        attempt=3,
    )
    assert first.ref("dataset").digest == again.ref("dataset").digest


def test_second_run_of_a_fingerprint_is_taken_from_the_cache(bench: Any) -> None:
    fingerprint = "sha256:" + "cd" * 32
    parts = {"config.salt": "sha256:00"}
    first = bench.run("Emit", {"text": "a"}, fingerprint=fingerprint, fingerprint_parts=parts)
    again = bench.run("Emit", {"text": "never"}, fingerprint=fingerprint, run_id="r2")
    assert again.ref("dataset").digest == first.ref("dataset").digest
    assert again.outputs["metrics"].metadata["crucible_cached_from"] == "r1"
    assert "run before by run r1" in again.log
    entry = bench.store.cache_get(fingerprint)
    assert entry is not None
    assert (entry.run_id, entry.parts) == ("r1", parts)


def test_cache_off_runs_again(bench: Any) -> None:
    fingerprint = "sha256:" + "ce" * 32
    bench.run("Emit", {"text": "a"}, fingerprint=fingerprint)
    again = bench.run("Emit", {"text": "b"}, fingerprint=fingerprint, cache=False)
    assert record(bench.store, again.ref("dataset"))["text"] == "b"


def test_component_that_is_not_cacheable_leaves_no_entry(bench: Any) -> None:
    fingerprint = "sha256:" + "cf" * 32
    config = {"state_path": str(bench.folder / "tries"), "failures": 0}
    assert bench.run("RaiseTemporary", config, fingerprint=fingerprint).exit_code == 0
    assert bench.store.cache_get(fingerprint) is None


EDITS_ITSELF = """
from pathlib import Path
from crucible.sdk.component import Component, ComponentConfig
class Own(Component):
    name = "own"
    class Config(ComponentConfig):
        text: str = ""
    def run(self, inputs, config, outputs, context):
        with Path(__file__).open("a") as stream:
            stream.write(config.text)
"""


@pytest.mark.parametrize(("text", "is_cached"), [("", True), ("# edited\n", False)])
def test_outputs_of_code_edited_since_planning_do_not_enter_the_cache(
    bench: Any, monkeypatch: pytest.MonkeyPatch, text: str, is_cached: bool
) -> None:
    (bench.folder / "own_steps.py").write_text(EDITS_ITSELF)
    monkeypatch.syspath_prepend(bench.folder)
    load_component.cache_clear()
    planned = code_digest(load_component("own_steps:Own"))
    done = bench.run("own_steps:Own", {"text": text}, fingerprint_parts={"code": planned})
    sys.modules.pop("own_steps")
    assert done.exit_code == 0, done.log
    assert (bench.store.cache_get(done.request.step.fingerprint) is not None) == is_cached
    assert ("not entered into the cache" in done.log) != is_cached


CANNOT_TIDY_UP = """
from crucible.sdk.component import Component
class Late(Component):
    name = "late"
    def run(self, inputs, config, outputs, context):
        context.checkpoint.clear = lambda: 1 / 0
"""


def test_fault_after_the_outputs_are_delivered_is_no_failure(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bench.folder / "late_steps.py").write_text(CANNOT_TIDY_UP)
    monkeypatch.syspath_prepend(bench.folder)
    done = bench.run("late_steps:Late")
    sys.modules.pop("late_steps")
    assert done.exit_code == 0
    assert done.failure is None
    assert "not tidied up" in done.log


def test_killed_count_goes_on_from_its_checkpoint_to_the_same_digest(bench: Any) -> None:
    uses = "crucible.testing.components:Count"
    config = {"until": 60, "checkpoint_every": 5, "pause_seconds": 0.01}
    fingerprint = "sha256:" + "12" * 32
    rng = random.Random(3)
    kills = 0
    for attempt in range(1, 20):
        request = bench.request(uses, config, fingerprint=fingerprint, attempt=attempt)
        pid = bench.start(uses, request)
        if attempt <= 4:
            time.sleep(rng.uniform(0.05, 0.25))
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
        done = bench.finish(request)
        if done.exit_code == 0:
            break
        kills += 1
    assert kills >= 2
    assert not (bench.folder / "checkpoints" / fingerprint[7:]).exists()
    undisturbed = bench.run("Count", config, fingerprint=fingerprint, cache=False)
    assert undisturbed.ref("dataset").digest == done.ref("dataset").digest
