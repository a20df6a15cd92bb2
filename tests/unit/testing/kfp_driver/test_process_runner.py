"""Real processes, with the double of the launcher around them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crucible.testing.kfp_driver import (
    Fault,
    Objects,
    ProcessRunner,
    Run,
    Settings,
    read_pipeline,
    run_pipeline,
)
from crucible.testing.kfp_driver.sandbox import NoSandbox, check_sandbox, sandboxed

from .conftest import Json, leaf, level, task

Drive = Callable[..., Run]
M_PATH = "{{$.outputs.artifacts['m'].path}}"


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    try:
        check_sandbox()
    except NoSandbox as reason:
        pytest.skip(str(reason))


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.in_folder(tmp_path / "objects")


@pytest.fixture
def run_script(tmp_path: Path, objects: Objects) -> Iterator[Drive]:
    """Runs one task, ``one``, that is a shell script; then looks for what it left behind."""
    before = {path.name for path in Path("/").iterdir()}

    def run_script(
        script: str,
        component: Json | None = None,
        *,
        args: tuple[str, ...] = (),
        kubernetes: Json | None = None,
        faults: tuple[Fault, ...] = (),
        env: dict[str, str] | None = None,
        retry: Json | None = None,
        **runner: Any,
    ) -> Run:
        container = {
            "image": "none",
            "command": ["sh", "-euc", script, "one", *args],
            "env": [{"name": name, "value": value} for name, value in (env or {}).items()],
        }
        fields = {"retryPolicy": retry} if retry else {}
        document = {
            "pipelineInfo": {"name": "testing"},
            "schemaVersion": "2.1.0",
            "components": {"comp-one": component or leaf("one")},
            "deploymentSpec": {"executors": {"exec-one": {"container": container}}},
            "root": level(task("one", **fields)),
        }
        executors = {"executors": {"exec-one": kubernetes or {}}}
        platform = {"platforms": {"kubernetes": {"deploymentSpec": executors}}}
        return run_pipeline(
            read_pipeline(yaml.safe_dump_all([document, platform])),
            ProcessRunner(tmp_path / "pods", objects.environ, [tmp_path], **runner),
            objects,
            Settings("s3://bucket/root"),
            faults=faults,
        )

    yield run_script
    assert {path.name for path in Path("/").iterdir()} == before
    assert not list((tmp_path / "pods").glob("pod-*"))


def log_of(run: Run) -> str:
    return run.task("one").attempts[-1].log


def artifact(title: str = "system.Artifact") -> Json:
    return {"artifactType": {"schemaTitle": title, "schemaVersion": "0.0.1"}}


def test_outputs_are_uploaded_and_the_log_is_one_of_them(
    run_script: Drive, objects: Objects
) -> None:
    component = {**leaf("one", {}, n="NUMBER_DOUBLE", s="STRING")}
    component["outputDefinitions"]["artifacts"] = {"file": artifact(), "folder": artifact()}
    run = run_script(
        'echo "said"; printf " 2.5 " > "$1"; echo text > "$2"; echo f > "$3"; '
        'mkdir -p "$4/sub"; echo g > "$4/sub/g"',
        component,
        args=(
            "{{$.outputs.parameters['n'].output_file}}",
            "{{$.outputs.parameters['s'].output_file}}",
            "{{$.outputs.artifacts['file'].path}}",
            "{{$.outputs.artifacts['folder'].path}}",
        ),
    )
    one = run.task("one")
    assert one.state.value == "succeeded", log_of(run)
    assert one.output_parameters == {"n": 2.5, "s": "text\n"}
    assert objects.read(one.outputs["file"].uri) == b"f\n"
    assert objects.read(f"{one.outputs['folder'].uri}/sub/g") == b"g\n"
    assert one.outputs["executor-logs"].uri.endswith("/executor-logs-0")
    assert objects.read(one.outputs["executor-logs"].uri) == b"said\n"


def test_an_output_parameter_must_be_written_and_an_artifact_need_not(
    run_script: Drive, objects: Objects
) -> None:
    component = leaf("one", {}, n="NUMBER_DOUBLE")
    component["outputDefinitions"]["artifacts"] = {"file": artifact()}
    run = run_script("true", component)
    assert 'failed to read output parameter name="n" type="NUMBER_DOUBLE"' in run.errors["one"]
    component["outputDefinitions"].pop("parameters")
    run = run_script("true", component)
    assert run.task("one").state.value == "succeeded"
    assert objects.read(run.task("one").outputs["file"].uri) is None


def test_the_output_file_wins_and_its_metadata_is_kept(run_script: Drive) -> None:
    component = leaf("one", {}, n="NUMBER_DOUBLE")
    component["outputDefinitions"]["artifacts"] = {"m": artifact("system.Metrics")}
    told = {"parameterValues": {"n": 1}, "artifacts": {"m": {"artifacts": [
        {"name": "m", "metadata": {"score": 0.5, "ok": True}}]}}}  # fmt: skip
    script = 'printf "%s" "$2" > "$(dirname "$1")/output_metadata.json"'
    run = run_script(script, component, args=(M_PATH, json.dumps(told)))
    one = run.task("one")
    assert one.state.value == "succeeded", log_of(run)
    assert one.output_parameters == {"n": 1}
    assert one.outputs["m"].metadata == {"score": 0.5, "ok": 1}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("not json", "failed to unmarshall ExecutorOutput"),
        ('{"unheard": 1}', "unknown field"),
        (
            '{"artifacts": {"m": {"artifacts": [{"uri": "s3://other/x"}]}}}',
            'URI "s3://other/x" does not have expected bucket prefix "s3://bucket/root"',
        ),
    ],
)
def test_an_output_file_that_kfp_refuses_fails_the_task(
    run_script: Drive, told: str, said: str
) -> None:
    component = leaf("one")
    component["outputDefinitions"] = {"artifacts": {"m": artifact()}}
    script = 'printf "%s" "$2" > "$(dirname "$1")/output_metadata.json"'
    run = run_script(script, component, args=(M_PATH, told))
    assert said in run.errors["one"]


def test_a_container_sees_its_own_variables_and_not_the_launchers(run_script: Drive) -> None:
    kubernetes = {
        "secretAsEnv": [{"secretName": "s", "keyToEnv": [{"secretKey": "k", "envVar": "SECRET"}]}],
        "configMapAsEnv": [
            {"configMapName": "c", "keyToEnv": [{"configMapKey": "k", "envVar": "CONFIG"}]}
        ],
    }
    run = run_script(
        "env",
        kubernetes=kubernetes,
        env={"PLAIN": "1"},
        secrets={"s": {"k": "hidden"}},
        config_maps={"c": {"k": "set"}},
    )
    seen = dict(line.partition("=")[::2] for line in log_of(run).splitlines())
    assert (seen["PLAIN"], seen["SECRET"], seen["CONFIG"]) == ("1", "hidden", "set")
    assert not [name for name in seen if name.startswith("KFP_LAUNCHER")]
    assert not [name for name in seen if name.startswith("PYTEST")]
    assert "KFP_RETRY_INDEX" not in seen


def test_a_secret_that_is_not_there_keeps_the_container_from_starting(run_script: Drive) -> None:
    entry = {"secretName": "s", "keyToEnv": [{"secretKey": "k", "envVar": "SECRET"}]}
    run = run_script("true", kubernetes={"secretAsEnv": [entry]})
    assert "CreateContainerConfigError" in run.errors["one"]
    run = run_script("true", kubernetes={"secretAsEnv": [{**entry, "optional": True}]})
    assert run.task("one").state.value == "succeeded"


def test_volumes_are_empty_folders_that_vanish(run_script: Drive) -> None:
    mounts = {"emptyDirMounts": [{"volumeName": "scratch", "mountPath": "/scratch"}]}
    script = 'test -z "$(ls -A /scratch)$(ls -A /.cache)"; touch /scratch/f /.cache/f; ls /'
    run = run_script(script, kubernetes=mounts)
    assert run.task("one").state.value == "succeeded", log_of(run)
    assert {"scratch", "s3", "minio", "gcs", "tmp"} <= set(log_of(run).split())


def test_a_container_has_a_deadline(run_script: Drive) -> None:
    run = run_script("sleep 60", kubernetes={"activeDeadlineSeconds": "1"})
    assert "longer than the specified deadline" in run.errors["one"]


def test_a_task_that_fails_leaves_its_log_and_nothing_else(
    run_script: Drive, objects: Objects
) -> None:
    component = leaf("one")
    component["outputDefinitions"] = {"artifacts": {"file": artifact()}}
    retry = {"maxRetryCount": 1, "backoffMaxDuration": "60s"}
    run = run_script(
        'echo "try $KFP_RETRY_INDEX"; echo f > "$1"; exit 3',
        component,
        args=("{{$.outputs.artifacts['file'].path}}",),
        retry=retry,
    )
    assert run.errors == {"one": "Component failed to execute successfully: exit status 3"}
    kept = sorted(key.rpartition("/")[2] for key in objects.keys("s3://bucket/root"))
    assert kept == ["executor-logs-0", "executor-logs-1", "output_metadata.json.launcher"]


def test_a_killed_pod_takes_all_its_processes_with_it(run_script: Drive, tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    script = '(while true; do date +%N > "$0.beat"; sleep 0.05; done) & wait'
    fault = Fault("one", "kill", when=lambda: beat.exists())
    run = run_script(script.replace("$0.beat", str(beat)), faults=(fault,))
    assert [one.phase for one in run.task("one").attempts] == ["failed"]
    last = beat.read_text()
    time.sleep(0.3)
    assert beat.read_text() == last


def test_a_deleted_pod_is_asked_first_and_has_a_second(run_script: Drive, tmp_path: Path) -> None:
    asked, ready = tmp_path / "asked", tmp_path / "ready"
    script = f"trap ': > {asked}; sleep 60' TERM; : > {ready}; sleep 60 & wait"
    fault = Fault("one", "delete", when=lambda: ready.exists())
    begun = time.monotonic()
    run = run_script(script, faults=(fault,))
    assert [one.phase for one in run.task("one").attempts] == ["error"]
    assert asked.exists()
    assert time.monotonic() - begun < 20


def test_a_program_that_is_not_there_fails_the_task(run_script: Drive) -> None:
    run = run_script("exec /no/such/program")
    assert "exit status 127" in run.errors["one"]


def test_the_machine_is_not_written_to(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ""]
    with pytest.raises(ValueError, match="would be made on this machine"):
        sandboxed(command, root=tmp_path, binds={"/usr/share/no-such-folder": tmp_path})
    assert not os.path.exists("/usr/share/no-such-folder")
