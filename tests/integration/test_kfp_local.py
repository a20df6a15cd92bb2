"""Pipelines of the kfp SDK through our driver, against ``kfp.local`` where that can run them.

It cannot collect what a loop made, choose between branches, or skip what stands in a level below.
There the values are what the pipeline says. Annotations are evaluated here: the SDK reads them.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from crucible.testing.kfp_driver import (
    Objects,
    ProcessRunner,
    Run,
    Settings,
    State,
    read_pipeline,
    run_pipeline,
)
from crucible.testing.kfp_driver.execution import output_parameter
from crucible.testing.kfp_driver.sandbox import NoSandbox, check_sandbox

pytestmark = pytest.mark.slow


def components() -> SimpleNamespace:
    from kfp import dsl

    component = dsl.component(base_image="python:3.11", install_kfp_package=False)

    @component
    def add(a: int, b: int) -> int:
        return a + b

    @component
    def say(text: str) -> str:
        return text.upper()

    @component
    def write(text: str, scale: float, flag: bool, file: dsl.Output[dsl.Dataset]) -> None:
        with open(file.path, "w") as stream:
            stream.write(f"{text} {scale} {flag}")
        file.metadata["length"] = len(text)

    @component
    def read(file: dsl.Input[dsl.Dataset], parts: list, named: dict) -> str:
        with open(file.path) as stream:
            return f"{stream.read()} {file.metadata['length'] == 4} {sum(parts)} {named}"

    @component
    def total(parts: list) -> int:
        return sum(parts)

    @component
    def fail(text: str) -> str:
        raise ValueError(text)

    @component
    def conclude(status: dsl.PipelineTaskFinalStatus) -> str:
        return f"{status.pipeline_task_name} {status.state}"

    found = (add, say, write, read, total, fail, conclude)
    return SimpleNamespace(**{one.name: one for one in found})


def sdk_pipelines() -> SimpleNamespace:
    """A pipeline in a pipeline, branches of which one is taken, and a loop that is collected."""
    from kfp import dsl

    run = components()

    @dsl.pipeline
    def inner(n: int, scale: float) -> dsl.Dataset:
        more = run.add(a=n, b=2)
        with_text = run.write(text="text", scale=scale, flag=True).after(more)
        return with_text.outputs["file"]

    @dsl.pipeline(name="nested")
    def nested(n: int = 3, scale: float = 0.5) -> str:
        one = run.add(a=n, b=1)
        below = inner(n=one.output, scale=scale)
        return run.read(file=below.output, parts=[1, 2.5], named={"a": [1.5]}).output

    @dsl.pipeline
    def choose(n: int) -> str:
        with dsl.If(n > 100):
            big = run.say(text="big")
        with dsl.Elif(n > 10):
            middle = run.say(text="middle")
        with dsl.Else():
            small = run.say(text="small")
        return dsl.OneOf(big.output, middle.output, small.output)

    @dsl.pipeline(name="branches")
    def branches(n: int) -> str:
        one = run.add(a=n, b=1)
        return choose(n=one.output).output

    @dsl.pipeline(name="loop")
    def loop(n: int) -> int:
        with dsl.ParallelFor([1, 2, 3]) as item:
            added = run.add(a=item, b=n)
        return run.total(parts=dsl.Collected(added.output)).output

    @dsl.pipeline(name="guarded")
    def guarded() -> None:
        with dsl.ExitHandler(run.conclude()):
            run.fail(text="on purpose").set_retry(2)
            run.say(text="beside it")

    return SimpleNamespace(nested=nested, branches=branches, loop=loop, guarded=guarded)


def run_here(pipeline: Any, folder: Path, **arguments: Any) -> Run:
    from kfp import compiler

    path = folder / "compiled.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    objects = Objects.in_folder(folder / "objects")
    run = run_pipeline(
        read_pipeline(path.read_text()),
        ProcessRunner(folder / "pods", objects.environ),
        objects,
        Settings("s3://bucket/root"),
        parameters=arguments,
    )
    return run


@pytest.fixture(autouse=True)
def _namespaces() -> None:
    try:
        check_sandbox()
    except NoSandbox as reason:
        pytest.skip(str(reason))


@pytest.fixture
def pipelines() -> Iterator[SimpleNamespace]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the SDK, about its own future
        yield sdk_pipelines()


def test_a_pipeline_in_a_pipeline(tmp_path: Path, pipelines: SimpleNamespace) -> None:
    from kfp import local

    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "local"))
    theirs = pipelines.nested(n=4)
    run = run_here(pipelines.nested, tmp_path, n=4)
    assert run.state is State.SUCCEEDED, run.errors
    assert output_parameter(run.root, "Output") == theirs.outputs["Output"]
    assert run.task("inner/add").output_parameters == {"Output": 7}


@pytest.mark.parametrize(("n", "word"), [(3, "SMALL"), (41, "MIDDLE")])
def test_one_of_several_branches(
    tmp_path: Path, pipelines: SimpleNamespace, n: int, word: str
) -> None:
    run = run_here(pipelines.branches, tmp_path, n=n)
    assert run.state is State.SUCCEEDED, run.errors
    assert output_parameter(run.root, "Output") == word
    groups = [
        s for name, s in run.states.items() if name.rpartition("/")[2].startswith("condition-")
    ]
    assert sorted(groups) == ["skipped", "skipped", "succeeded", "succeeded"]  # and what holds them


def test_what_a_loop_made_is_collected_in_order(tmp_path: Path, pipelines: SimpleNamespace) -> None:
    run = run_here(pipelines.loop, tmp_path, n=10)
    assert run.state is State.SUCCEEDED, run.errors
    assert list(run.task("total").parameters.values()) == [[11, 12, 13]]
    assert output_parameter(run.root, "Output") == 36


def test_an_exit_handler_is_told_how_it_ended(tmp_path: Path, pipelines: SimpleNamespace) -> None:
    run = run_here(pipelines.guarded, tmp_path)
    assert run.state is State.FAILED
    assert [pod.phase for pod in run.task("fail").attempts] == ["failed"] * 3
    assert run.task("say").state is State.SUCCEEDED
    assert run.task("conclude").output_parameters == {"Output": "exit-handler-1 FAILED"}
