import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SHA = re.compile(r"sha256:[0-9a-f]{64}")


def run_module(*argv: str, folder: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "crucible.step", *argv],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | environ,
    )


def test_module_runs_what_a_launcher_passes(bench: Any) -> None:
    uses = "crucible.testing.components:Emit"
    request = bench.request(uses, {"text": "t"})
    value = json.loads(json.dumps(request.to_json()))
    value["outputs"]["artifacts"]["executor-logs"] = {
        "artifacts": [{"name": "executor-logs", "uri": str(bench.folder / "logs")}]
    }
    parameters = value["inputs"]["parameterValues"]
    parameters["config"] = json.dumps(parameters["config"])
    done = run_module(
        *(uses, "--executor-input", json.dumps(value)),
        folder=bench.folder,
        **bench.environ(request),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert not (bench.folder / "logs").exists()
    assert SHA.search(request.outputs["dataset"].path.read_text())


def test_module_reads_its_input_from_a_file_too(bench: Any) -> None:
    uses = "crucible.testing.components:Noop"
    request = bench.request(uses)
    (bench.folder / "input.json").write_text(json.dumps(request.to_json()))
    done = run_module(
        *(uses, "--executor-input", "@input.json"), folder=bench.folder, **bench.environ(request)
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["x"], "--executor-input"),
        (["x", "--executor-input", "{"], "Pass KFP v2's ExecutorInput"),
        (["x", "--executor-input", "@absent"], "@absent: No such file"),
    ],
)
def test_wrong_command_line_is_exit_code_2(tmp_path: Path, argv: list[str], message: str) -> None:
    done = run_module(*argv, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_json_log_lines_for_collectors(bench: Any) -> None:
    uses = "crucible.testing.components:Raise"
    done = bench.run_request(uses, bench.request(uses), CRUCIBLE_LOG_FORMAT="json")
    entries = [json.loads(line) for line in done.log.splitlines()]
    assert [entry["level"] for entry in entries] == ["INFO"] * 3 + ["ERROR"]
    assert "ValueError: on purpose" in entries[-1]["traceback"]


def test_step_process_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, crucible.step; "
        "print([n for n in ('torch','transformers','mlflow','kfp','minio','numpy','typer','rich') "
        "if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
