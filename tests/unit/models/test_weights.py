from __future__ import annotations

import io
import json
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from crucible.errors import ArtifactCorrupt, ArtifactNotFound
from crucible_components.models.weight_files import WeightFiles
from crucible_components.models.weights import TensorInfo, TensorReader


class Folder:
    """A folder as a tensor source; ``ranged`` hides the file descriptor, as a remote store does."""

    def __init__(self, path: Path, *, ranged: bool = False) -> None:
        self.path, self.ranged = path, ranged

    def paths(self) -> tuple[str, ...]:
        return tuple(sorted(p.name for p in self.path.iterdir()))

    def open(self, path: str) -> BinaryIO:
        if self.ranged:
            return io.BytesIO((self.path / path).read_bytes())
        return (self.path / path).open("rb")


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "model.b": torch.randn(3, 5, generator=generator),
        "model.a": torch.randn(7, generator=generator).to(torch.bfloat16),
        "steps": torch.tensor(3, dtype=torch.int64),
        "mask": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 4, dtype=torch.float16),
    }


def _infos(tensors: dict[str, torch.Tensor]) -> list[TensorInfo]:
    return [TensorInfo(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()]


def _write(folder: Path, tensors: dict[str, torch.Tensor], **options: int) -> None:
    with WeightFiles(folder, _infos(tensors), **options) as files:
        for name in reversed(tensors):
            files.write_span(name, 0, tensors[name].flatten())
        files.finish()


def test_bytes_equal_those_of_the_safetensors_library(tmp_path: Path) -> None:
    tensors = _tensors()
    _write(tmp_path, tensors)
    save_file(tensors, tmp_path / "reference", metadata={"format": "pt"})
    written = (tmp_path / "model.safetensors").read_bytes()
    assert written == (tmp_path / "reference").read_bytes()


@pytest.mark.parametrize("ranged", [False, True])
@pytest.mark.parametrize("max_shard_bytes", [1, 30, 10_000])
def test_what_was_written_is_read_back(tmp_path: Path, ranged: bool, max_shard_bytes: int) -> None:
    tensors = _tensors()
    _write(tmp_path, tensors, max_shard_bytes=max_shard_bytes)
    with TensorReader(Folder(tmp_path, ranged=ranged)) as reader:
        assert set(reader.infos) == set(tensors)
        for name, expected in tensors.items():
            actual = reader.read(name)
            assert actual.dtype == expected.dtype
            assert torch.equal(actual, expected)


def test_shards_load_with_the_library_and_the_index_names_them(tmp_path: Path) -> None:
    tensors = _tensors()
    _write(tmp_path, tensors, max_shard_bytes=30)
    weight_map = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(weight_map) == set(tensors)
    for name, file_name in weight_map.items():
        assert torch.equal(load_file(tmp_path / file_name)[name], tensors[name])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_layout_round_trips(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("layout")
    dtype = st.sampled_from([torch.float32, torch.bfloat16, torch.uint8, torch.int16])
    shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    entry = st.tuples(dtype, shapes)
    spec = data.draw(st.dictionaries(st.text("abcµ.", min_size=1), entry, min_size=1))
    tensors = {n: torch.randint(0, 100, s).to(d) for n, (d, s) in spec.items()}
    _write(folder, tensors, max_shard_bytes=data.draw(st.integers(1, 200)))
    with TensorReader(Folder(folder)) as reader:
        assert all(torch.equal(reader.read(name), tensor) for name, tensor in tensors.items())


def test_values_come_in_pieces_and_in_any_order(tmp_path: Path) -> None:
    values_N = torch.arange(1000.0)
    with WeightFiles(tmp_path, [TensorInfo("w", values_N.dtype, (10, 100))]) as files:
        for start in (700, 0, 333):
            files.write_span("w", start, values_N[start : {700: 1000, 0: 333, 333: 700}[start]])
        files.finish()
    with TensorReader(Folder(tmp_path)) as reader:
        assert torch.equal(reader.read("w").flatten(), values_N)
        assert torch.equal(reader.read_span("w", slice(99, 501)), values_N[99:501])


def test_another_process_goes_on_with_the_same_files(tmp_path: Path) -> None:
    tensors = _tensors()
    with WeightFiles(tmp_path, _infos(tensors)) as files:
        assert not files.is_resumed
        files.write_span("model.b", 0, tensors["model.b"].flatten())
    with WeightFiles(tmp_path, _infos(tensors)) as files:
        assert files.is_resumed
        for name in tensors.keys() - {"model.b"}:
            files.write_span(name, 0, tensors[name].flatten())
        files.finish()
    with TensorReader(Folder(tmp_path)) as reader:
        assert torch.equal(reader.read("model.b"), tensors["model.b"])
    with WeightFiles(tmp_path, _infos(tensors)[1:]) as files:
        assert not files.is_resumed, "other tensors"


@pytest.mark.parametrize("damage", ["truncated", "header", "dtype", "garbage", "longer"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(4)}, path)
    data = path.read_bytes()
    path.write_bytes(
        {
            "truncated": data[:-1],
            "header": b"\xff" * 8 + data[8:],
            "dtype": data.replace(b"F32", b"Q32"),
            "garbage": b"abc",
            "longer": data + b"\0",
        }[damage]
    )
    with pytest.raises(ArtifactCorrupt, match=r"model\.safetensors: not a valid safetensors file"):
        TensorReader(Folder(tmp_path))


def test_an_index_that_lies_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, _tensors(), max_shard_bytes=30)
    index_path = tmp_path / "model.safetensors.index.json"
    index = json.loads(index_path.read_text())
    index["weight_map"]["ghost"] = index["weight_map"]["mask"]
    index_path.write_text(json.dumps(index))
    with pytest.raises(ArtifactCorrupt, match="ghost"):
        TensorReader(Folder(tmp_path))
    index["weight_map"]["ghost"] = "gone.safetensors"
    index_path.write_text(json.dumps(index))
    with pytest.raises(ArtifactCorrupt, match=r"missing: gone\.safetensors"):
        TensorReader(Folder(tmp_path))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match="safetensors weights"):
        TensorReader(Folder(tmp_path))
