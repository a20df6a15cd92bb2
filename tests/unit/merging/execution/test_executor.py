"""The same bytes for any number of threads, size of cache, and however often it is killed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from crucible.errors import StoreFull
from crucible_components.merging.execution.blocks import ValuesNotFinite
from crucible_components.merging.execution.executor import Execution, Limits
from crucible_components.merging.execution.journal import Journal
from crucible_components.merging.kernels import tensors
from crucible_components.merging.methods import METHODS
from crucible_components.merging.recipe.headers import ModelHeaders, TensorPlan
from crucible_components.merging.recipe.planning import Planner
from crucible_components.merging.recipe.schema import MergeFile
from crucible_components.merging.testing import FolderFiles, merge
from crucible_components.models.safetensors_format import TensorInfo, file_names
from crucible_components.models.weight_files import WeightFiles
from crucible_components.models.weights import TensorReader

SHAPES = {
    "embed.weight": (700, 256),  # more than one block
    "layers.0.up.weight": (64, 32),
    "layers.1.up.weight": (64, 32),
    "norm.weight": (32,),
}
SCE: dict[str, Any] = {"merge_method": "sce", "parameters": {"select_topk": 0.3}}
DARE: dict[str, Any] = {
    "merge_method": "dare_ties",
    "parameters": {"weight": 0.5, "density": [0.2, 0.9]},
}


def model(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    common = torch.Generator().manual_seed(9)
    base = {name: torch.randn(shape, generator=common) for name, shape in SHAPES.items()}
    return {
        name: (base_N + seed * 0.01 * torch.randn(base_N.shape, generator=generator)).bfloat16()
        for name, base_N in base.items()
    }


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "BLOCK_ELEMENTS", 1 << 16)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TensorReader]]:
    with ExitStack() as stack:
        found = {}
        for name, seed in (("base", 0), ("a", 1), ("b", 2), ("c", 3)):
            folder = tmp_path_factory.mktemp(name)
            save_file(model(seed), folder / "model.safetensors")
            found[name] = stack.enter_context(TensorReader(FolderFiles(folder)))
        yield found


def plans_of(readers: dict[str, TensorReader], content: dict[str, Any]) -> list[TensorPlan]:
    file = MergeFile.model_validate(
        {"models": [{"model": name} for name in "abc"], "base_model": "base", **content}
    )
    planner = Planner(file, {name: ModelHeaders(r.infos) for name, r in readers.items()})
    plans = planner.plan()
    assert planner.problems == []
    return plans


def run(
    readers: dict[str, Any], content: dict[str, Any], folder: Path, **options: Any
) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    plans = plans_of(readers, content)
    layout = [TensorInfo(plan.name, plan.dtype, plan.shape) for plan in plans]
    with WeightFiles(folder, layout, max_shard_bytes=100_000) as files:
        journal = Journal(folder / "journal", "key")
        execution = Execution(METHODS[content["merge_method"]], readers, **options)
        execution.run(plans, files, journal)
        names = file_names(layout, max_shard_bytes=100_000)
        return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.parametrize("content", [SCE, DARE])
def test_threads_and_caches_change_nothing(
    readers: dict[str, TensorReader], content: dict[str, Any], tmp_path: Path
) -> None:
    limits = [Limits(1), Limits(3), Limits(2, cache_bytes=0), Limits(4, cache_bytes=20_000)]
    results = [
        run(readers, content, tmp_path / str(number), limits=each)
        for number, each in enumerate(limits)
    ]
    assert len(results[0]) > 2, "more than one shard is meant"
    assert all(result == results[0] for result in results[1:])


def test_the_result_is_the_methods(readers: dict[str, TensorReader], tmp_path: Path) -> None:
    run(readers, SCE, tmp_path / "out")
    written: dict[str, torch.Tensor] = {}
    for path in (tmp_path / "out").glob("*.safetensors"):
        written |= load_file(path)
    models, base = [model(seed) for seed in (1, 2, 3)], model(0)
    for name, tensor in written.items():
        expected = merge("sce", [each[name] for each in models], base[name], select_topk=0.3)
        assert torch.equal(tensor, expected.bfloat16())


class Killed(BaseException):
    """As far as files go, what a kill leaves."""


class Dying:
    """A reader that ends the process at the n-th read."""

    def __init__(self, reader: TensorReader, after: int) -> None:
        self.reader, self.infos, self.left = reader, reader.infos, after

    def read_span(self, name: str, span: slice) -> torch.Tensor:
        self.left -= 1
        if self.left < 0:
            raise Killed
        return self.reader.read_span(name, span)


@pytest.mark.parametrize("after", range(1, 9))
def test_a_rerun_goes_on_and_gives_the_same_bytes(
    readers: dict[str, TensorReader], after: int, tmp_path: Path
) -> None:
    whole = run(readers, DARE, tmp_path / "whole")
    limits = Limits(2, cache_bytes=100_000, commit_bytes=1)
    dying = {**readers, "a": Dying(readers["a"], after)}
    with pytest.raises(Killed):
        run(dying, DARE, tmp_path / "out", limits=limits)
    done = Journal(tmp_path / "out" / "journal", "key").done
    counting = Dying(readers["a"], 10**9)
    again = run({**readers, "a": counting}, DARE, tmp_path / "out", limits=limits)
    assert again == whole
    reads = 10**9 - counting.left
    assert reads < 9 if done else reads == 9, "only what is missing is read"


def test_another_merge_in_the_same_folder_begins_anew(
    readers: dict[str, TensorReader], tmp_path: Path
) -> None:
    run(readers, SCE, tmp_path / "out")
    other = {**SCE, "dtype": "float32"}
    assert run(readers, other, tmp_path / "out") == run(readers, other, tmp_path / "fresh")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_named(
    readers: dict[str, TensorReader], value: float, tmp_path: Path
) -> None:
    broken = model(2)
    broken["layers.1.up.weight"][3, 4] = value
    save_file(broken, tmp_path / "model.safetensors")
    told = r"b: layers\.1\.up\.weight has -?(nan|inf) at position 100"
    with TensorReader(FolderFiles(tmp_path)) as reader, pytest.raises(ValuesNotFinite, match=told):
        run({**readers, "b": reader}, SCE, tmp_path / "out")


def test_a_full_disk_is_told_before_the_work(
    readers: dict[str, TensorReader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(StoreFull, match="cannot make room for model-00001-of"):
            run(readers, SCE, tmp_path / "out")
    assert list((tmp_path / "out").glob("*.safetensors")) == []
    assert run(readers, SCE, tmp_path / "out") == run(readers, SCE, tmp_path / "fresh")


def test_a_result_that_does_not_fit_its_type_is_refused(
    readers: dict[str, TensorReader], tmp_path: Path
) -> None:
    content = {
        "merge_method": "task_arithmetic",
        "parameters": {"weight": 1e7},
        "dtype": "float16",
    }
    with pytest.raises(ValuesNotFinite, match=r"the merged values do not fit into torch\.float16"):
        run(readers, content, tmp_path / "out")
