from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crucible_components.data.folder import FolderBytes
from crucible_components.merging.apply import apply_merge
from crucible_components.merging.config import SceMethod
from crucible_components.merging.plan import plan_merge
from crucible_components.merging.sce import merge_sce
from crucible_components.models.weights import TensorReader

METHOD = SceMethod(name="sce", select_topk=0.5)


def tensors(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "layers.0.weight": torch.randn(8, 5, generator=generator).to(torch.bfloat16),
        "norm.weight": torch.randn(5, generator=generator),
        "positions": torch.arange(4),
    }


@contextmanager
def readers(folder: Path, models: list[dict[str, Tensor]]) -> Iterator[list[TensorReader]]:
    with ExitStack() as stack:
        found = []
        for index, model in enumerate(models):
            (folder / str(index)).mkdir()
            save_file(model, folder / str(index) / "model.safetensors")
            found.append(stack.enter_context(TensorReader(FolderBytes(folder / str(index)))))
        yield found


def test_round_trip_equals_the_kernel_tensor_by_tensor(tmp_path: Path) -> None:
    models = [tensors(seed) for seed in range(4)]
    done: list[int] = []
    with readers(tmp_path, models) as (base, *sources):
        plan = plan_merge(sources, base, "base")
        records = apply_merge(
            plan, sources, base, method=METHOD, new_file=tmp_path.joinpath, on_tensor=done.append
        )
    merged = load_file(tmp_path / "model.safetensors")
    assert merged.keys() == models[0].keys()
    assert torch.equal(merged.pop("positions"), torch.arange(4))
    for record in records:
        expected = merge_sce([m[record.name] for m in models[1:]], models[0][record.name], METHOD)
        assert torch.equal(merged.pop(record.name), expected.tensor)
        assert record.weights == expected.weights
    assert merged == {}
    assert done == [1, 2, 3]


def test_merging_the_base_with_itself_is_byte_identical(tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    with readers(tmp_path, [tensors(0)] * 3) as (base, *sources):
        plan = plan_merge(sources, base, "base")
        new_file = (tmp_path / "merged").joinpath
        apply_merge(plan, sources, base, method=METHOD, new_file=new_file)
    save_file(tensors(0), tmp_path / "expected", metadata={"format": "pt"})
    written = (tmp_path / "merged" / "model.safetensors").read_bytes()
    assert written == (tmp_path / "expected").read_bytes()


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()

    def fail(num_done: int) -> None:
        raise RuntimeError("disk gone")

    with readers(tmp_path, [tensors(seed) for seed in range(3)]) as (base, *sources):
        plan = plan_merge(sources, base, "base")
        with pytest.raises(RuntimeError, match="disk gone"):
            apply_merge(
                plan,
                sources,
                base,
                method=METHOD,
                new_file=output.joinpath,
                on_tensor=fail,
            )
    assert list(output.iterdir()) == []


MEASURE = """
import io, json, resource, sys
from pathlib import Path
import torch
from crucible_components.data.folder import FolderBytes
from crucible_components.merging import topk
from crucible_components.merging.apply import apply_merge
from crucible_components.merging.config import SceMethod
from crucible_components.merging.plan import check_values, plan_merge
from crucible_components.models.weights import TensorReader

class Ranged(FolderBytes):
    # Hides the file descriptor as a remote store does: mapped pages would count as memory.
    def open(self, path):
        file = super().open(path)
        class Stream(io.RawIOBase):
            def seek(self, *where): return file.seek(*where)
            def read(self, size=-1): return file.read(size)
            def close(self): file.close()
        return Stream()

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.set_num_threads(1)
topk.BLOCK_ELEMENTS = 1 << 16
folder = Path(sys.argv[1])
readers = [TensorReader(Ranged(folder / name)) for name in ("base", "a", "b")]
method = SceMethod(name="sce", select_topk=0.5)
before = peak_bytes()
plan = plan_merge(readers[1:], readers[0], "base")
assert check_values(plan, readers[1:], readers[0]) == []
apply_merge(plan, readers[1:], readers[0], method=method, new_file=folder.joinpath)
print(json.dumps(peak_bytes() - before))
"""


def test_memory_is_a_few_times_the_largest_tensor(tmp_path: Path) -> None:
    rows, num_tensors = 256, 32
    tensor_bytes = rows * 4096 * 2
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "a", "b"):
        (tmp_path / name).mkdir()
        noise = torch.rand(rows, 4096, generator=generator)
        model = {f"layers.{i}.weight": (noise + i).to(torch.bfloat16) for i in range(num_tensors)}
        save_file(model, tmp_path / name / "model.safetensors")
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used_bytes = json.loads(printed)
    block_temporaries_bytes = 10e6
    assert used_bytes < 8 * tensor_bytes + block_temporaries_bytes
    assert used_bytes < num_tensors * tensor_bytes / 2
