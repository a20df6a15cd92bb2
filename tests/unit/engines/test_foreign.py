from pathlib import Path
from typing import Any

import pytest
import yaml

from crucible.engines.foreign import is_compiled, load_compiled
from crucible.engines.local.engine import LocalEngine
from crucible.errors import UserError
from crucible.settings import Settings


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of the kfp SDK with three parameters and a platform document."""
    from kfp import compiler, dsl, kubernetes

    @dsl.container_component
    def say(text: str):  # type: ignore[no-untyped-def]
        return dsl.ContainerSpec(image="busybox", command=["echo"], args=[text])

    @dsl.pipeline(name="foreign")
    def pipeline(text: str, count: int = 3, flags: list = []) -> None:  # noqa: B006
        kubernetes.set_image_pull_policy(say(text=text), "Never")

    path = tmp_path_factory.mktemp("kfp") / "foreign.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    return path


def changed(compiled: Path, folder: Path, change: Any) -> Path:
    documents = list(yaml.safe_load_all(compiled.read_text()))
    change(documents[0])
    path = folder / "changed.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


def problems(path: Path, **arguments: str) -> dict[str, str]:
    with pytest.raises(UserError) as caught:
        load_compiled(path, arguments)
    return {problem.path: str(problem) for problem in caught.value.problems}


def test_a_compiled_pipeline_is_told_from_one_of_ours(compiled: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours.yaml"
    ours.write_text("apiVersion: crucible/v1\nkind: Pipeline\nsteps: {root: {}, x: {}}\n")
    assert is_compiled(compiled)
    assert not is_compiled(ours)
    assert not is_compiled(tmp_path / "none.yaml")


def test_it_is_sent_as_it_is_with_typed_arguments(compiled: Path) -> None:
    found = load_compiled(compiled, {"text": "7", "count": "7", "flags": "[1, 2]"})
    assert found.name == "foreign"
    assert found.pipeline == next(yaml.safe_load_all(compiled.read_text()))
    assert found.platform is not None
    assert found.arguments == {"text": "7", "count": 7, "flags": [1, 2]}


def test_all_wrong_arguments_are_told_at_once(compiled: Path) -> None:
    found = problems(compiled, txt="1", count="x", flags="{}")
    assert "Did you mean 'text'" in found["--set txt"]
    assert "Give a NUMBER_INTEGER" in found["--set count"]
    assert "Give a LIST" in found["--set flags"]
    assert "--set text=VALUE" in found["text"]


@pytest.mark.parametrize(
    ("change", "path", "text"),
    [
        (lambda p: p.update(schemaVersion="1"), "schemaVersion", "2.1.0"),
        (lambda p: p["pipelineInfo"].update(name="Bad_Name!"), "pipelineInfo.name", "lower-case"),
        (lambda p: p.update(surprise=1), "", "surprise"),
        (
            lambda p: p["root"]["dag"]["tasks"]["say"]["componentRef"].update(name="comp-sy"),
            "root.dag.tasks.say.componentRef",
            "Did you mean 'comp-say'",
        ),
        (
            lambda p: p["components"]["comp-say"].update(executorLabel="exec-none"),
            "components.comp-say.executorLabel",
            "no executor",
        ),
        (
            lambda p: p["deploymentSpec"]["executors"]["exec-say"]["container"].pop("command"),
            "deploymentSpec.executors.exec-say.container.command",
            "entry point",
        ),
    ],
)
def test_what_a_server_answers_500_to_is_told_here(
    compiled: Path, tmp_path: Path, change: Any, path: str, text: str
) -> None:
    found = problems(changed(compiled, tmp_path, change), text="x")
    assert text in found[path]


@pytest.mark.parametrize("text", ["{", "- a\n- b\n", "", "a: 1\n---\nb: 1\n---\nc: 1\n"])
def test_files_of_another_form_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"x\.yaml"):
        load_compiled(path, {})


def test_this_machine_runs_none(compiled: Path, tmp_path: Path) -> None:
    engine = LocalEngine(Settings.load({"CRUCIBLE_HOME": str(tmp_path)}))
    with pytest.raises(UserError, match="only a cluster can run it"):
        engine.submit_compiled(load_compiled(compiled, {"text": "x"}))
