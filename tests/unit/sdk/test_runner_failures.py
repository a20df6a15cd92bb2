import errno
import os
import re
import signal
import sys
import time
from typing import Any

import pytest


def test_exception_is_recorded_and_its_traceback_logged_once(bench: Any) -> None:
    done = bench.run("Raise", {"message": "bad luck"})
    assert done.exit_code == 1
    assert done.failure is not None
    assert done.failure.keys() == {"cause", "message", "fix", "exit_code"}
    assert (done.failure["cause"], done.failure["exit_code"]) == ("raised", 1)
    assert re.match(r"ValueError: bad luck \(components\.py:\d+\)", done.failure["message"])
    assert done.log.count("Traceback") == 1
    assert not done.request.output_file.exists()
    assert not list((done.attempt_dir / "scratch").iterdir())
    assert not list((bench.folder / "store").glob("staging/*"))


def test_all_mistakes_of_config_and_inputs_are_in_one_failure(bench: Any) -> None:
    text_model = bench.run("MakeModel").request.outputs["model"].path
    done = bench.run(
        "WantVision", {"modle": 1, "x": 2}, {"model": [text_model], "extra": [text_model]}
    )
    assert done.exit_code == 2
    assert done.failure is not None
    assert done.failure["cause"] == "user-error"
    message = done.failure["message"]
    assert "steps.only.with.model: got Model[causal-lm] of test-make-model" in message
    assert "wants Model[vision-language]" in message
    assert "steps.only.with.extra: is not an input" in message
    assert "steps.only.with.modle: is not a setting" in message
    assert "Did you mean 'model'?" in message
    assert "Traceback" not in done.log


def test_missing_and_surplus_inputs(bench: Any) -> None:
    model = bench.run("MakeModel").request.outputs["model"].path
    missing = bench.run("CopyModel")
    assert missing.failure is not None
    assert "steps.only.with.model: is required." in missing.failure["message"]
    surplus = bench.run("CopyModel", {}, {"model": [model, model]})
    assert surplus.failure is not None
    assert "got 2 artifacts, wants one" in surplus.failure["message"]


def test_required_input_whose_reference_is_gone(bench: Any) -> None:
    done = bench.run("CopyModel", {}, {"model": [bench.folder / "never-written"]})
    assert (done.exit_code, done.failure and done.failure["cause"]) == (1, "store")


def test_damaged_reference(bench: Any) -> None:
    done = bench.run("MakeModel")
    path = done.request.outputs["model"].path
    path.write_text(path.read_text().replace("causal-lm", "vision-language"))
    done = bench.run("CopyModel", {}, {"model": [path]})
    assert (done.exit_code, done.failure and done.failure["cause"]) == (1, "store")


def test_missing_output_is_named_and_nothing_is_stored(bench: Any) -> None:
    done = bench.run("WriteNothing")
    assert done.exit_code == 1
    assert done.failure is not None
    assert done.failure["cause"] == "no-output"
    assert "without writing its output dataset" in done.failure["message"]
    assert bench.store.cache_get(done.request.step.fingerprint) is None
    assert bench.run("WriteNothing", optional_outputs=("dataset",)).exit_code == 0


def test_temporary_failure_is_75_and_left_to_the_engine(bench: Any) -> None:
    config = {"state_path": str(bench.folder / "tries"), "failures": 1}
    done = bench.run("RaiseTemporary", config)
    assert (done.exit_code, done.failure and done.failure["cause"]) == (75, "temporary")
    assert bench.run("RaiseTemporary", config, attempt=2).exit_code == 0


def test_temporary_failure_is_retried_by_the_step_where_it_is_told_to(bench: Any) -> None:
    uses = "crucible.testing.components:RaiseTemporary"
    config = {"state_path": str(bench.folder / "tries"), "failures": 2}
    limits = {"CRUCIBLE_RETRY_LIMIT": "2", "CRUCIBLE_RETRY_BACKOFF_SECONDS": "0.01"}
    done = bench.run_request(uses, bench.request(uses, config), **limits)
    assert done.exit_code == 0, done.log
    assert "attempt 3" in done.log
    assert done.failure is None
    config = {"state_path": str(bench.folder / "more tries"), "failures": 3}
    spent = bench.run_request(uses, bench.request(uses, config), **limits)
    assert spent.exit_code == 75


def test_wrong_retry_setting_is_a_user_error(bench: Any) -> None:
    uses = "crucible.testing.components:Noop"
    done = bench.run_request(uses, bench.request(uses), CRUCIBLE_RETRY_LIMIT="many")
    assert (done.exit_code, done.failure and done.failure["cause"]) == (2, "user-error")


def test_unknown_component_is_a_user_error_with_a_failure_file(bench: Any) -> None:
    request = bench.request("crucible.testing.components:Noop")
    done = bench.run_request("crucible.testing.components:Nope", request)
    assert done.exit_code == 2
    assert done.failure is not None
    assert "Did you mean 'Noop'?" in done.failure["message"]


OWN = """
import sys
from crucible.errors import StoreFull, StoreUnavailable, UserError
from crucible.sdk.component import Component, ComponentConfig, ComponentOutputs
from crucible.sdk.types import ArtifactType, Metrics, Model, VisionLanguage

class OutOfMemoryError(RuntimeError): "as torch names its own"

class Odd(Component):
    name = "odd"
    class Config(ComponentConfig):
        what: str
    class Outputs(ComponentOutputs):
        metrics: Metrics
        vlm: Model[VisionLanguage] | None
    def run(self, inputs, config, outputs, context):
        outputs.metrics.write({"a": 1.0})
        exec(config.what)
"""


@pytest.mark.parametrize(
    ("what", "cause", "exit_code", "message"),
    [
        ("raise MemoryError", "out-of-memory", 1, "MemoryError"),
        ("raise OutOfMemoryError('CUDA')", "out-of-memory", 1, "OutOfMemoryError: CUDA"),
        (f"raise OSError({errno.ENOSPC}, 'No space left')", "store", 1, "No space left"),
        ("raise StoreFull('the disk is full.')", "store", 1, "the disk is full."),
        ("raise StoreUnavailable('no answer.')", "temporary", 75, "no answer."),
        ("raise UserError('no such split.')", "user-error", 2, "no such split."),
        ("sys.exit(7)", "raised", 1, "SystemExit: 7"),
        ("raise KeyboardInterrupt", "raised", 1, "KeyboardInterrupt"),
        ("outputs.metrics.metadata['x'] = float('nan')", "raised", 1, r"metrics.*metadata\.x"),
        ("outputs.metrics.metadata['x'] = [1]", "raised", 1, r"metrics.*metadata\.x"),
        ("outputs.metrics.new_file('gone.txt')", "raised", 1, "output metrics: .*gone.txt"),
        (
            "outputs.vlm.type = ArtifactType('Model', 'causal-lm'); outputs.vlm.write_json('c', 1)",
            "raised",
            1,
            r"output vlm is Model\[causal-lm\], declared as Model\[vision-language\]",
        ),
        ("outputs.metrics.local_dir()", "store", 1, "cannot be read while it is written"),
        ("context.tracking.log_metrics({'l': float('nan')})", "raised", 1, "metric 'l' is nan"),
    ],
)
def test_cause_and_exit_code(
    bench: Any, monkeypatch: pytest.MonkeyPatch, what: str, cause: str, exit_code: int, message: str
) -> None:
    (bench.folder / "odd_steps.py").write_text(OWN)
    monkeypatch.syspath_prepend(bench.folder)
    done = bench.run("odd_steps:Odd", {"what": what})
    sys.modules.pop("odd_steps", None)
    assert done.failure is not None, done.log
    assert (done.failure["cause"], done.failure["exit_code"]) == (cause, exit_code)
    assert done.exit_code == exit_code
    assert re.search(message, done.failure["message"])
    assert done.failure["fix"]
    assert not done.request.output_file.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_unwinds_and_is_recorded(bench: Any, number: signal.Signals) -> None:
    uses = "crucible.testing.components:Sleep"
    request = bench.request(uses, {"seconds": 60})
    pid = bench.start(uses, request)
    scratch_dir = request.output_file.parent / "scratch"
    while not (scratch_dir.is_dir() and list(scratch_dir.iterdir())):
        time.sleep(0.01)
    os.kill(pid, number)
    done = bench.finish(request)
    assert done.exit_code == 128 + number
    assert done.failure is not None
    assert (done.failure["cause"], done.failure["exit_code"]) == ("killed", 128 + number)
    assert "cancelled" in done.failure["message"]
    assert not list(scratch_dir.iterdir())
    assert not list((bench.folder / "store").glob("staging/*"))


def test_exit_and_kill_leave_no_record_for_the_engine_to_misread(bench: Any) -> None:
    assert bench.run("Exit", {"code": 5}).exit_code == 5
    killed = bench.run("KillSelf")
    assert killed.exit_code == -signal.SIGKILL
    assert killed.failure is None
    assert not killed.request.output_file.exists()


def test_stale_failure_of_an_earlier_process_is_removed(bench: Any) -> None:
    uses = "crucible.testing.components:Noop"
    request = bench.request(uses)
    request.output_file.parent.mkdir(parents=True)
    (request.output_file.parent / "failure.json").write_text("{}")
    assert bench.run_request(uses, request).failure is None
