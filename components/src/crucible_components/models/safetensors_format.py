"""The safetensors format: types, header and index, and how a model is laid out in files.

The bytes written equal those of ``safetensors.torch.save_file`` for the same tensors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""What the safetensors library accepts."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# The library orders tensors by this rank of their type, highest first, then by name.
_DTYPE_ORDER = "BOOL U8 I8 F8_E5M2 F8_E4M3 I16 F16 BF16 I32 F32 F64 I64"
_DTYPE_RANK = {name: rank for rank, name in enumerate(_DTYPE_ORDER.split())}


@dataclass(frozen=True)
class TensorInfo:
    """Name, type and shape of one tensor, without its values."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class FileLayout:
    """One file: its header, and where each tensor starts."""

    header: bytes
    start_bytes: Mapping[str, int]
    num_bytes: int


def lay_out(
    infos: Iterable[TensorInfo],
    *,
    metadata: Mapping[str, str] | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> tuple[dict[str, FileLayout], bytes | None]:
    """Files by name, and the index beside them if there are several.

    One ``model.safetensors`` up to ``max_shard_bytes``, else numbered shards.
    """
    shards = _plan_shards(sorted(infos, key=_layout_key), max_shard_bytes)
    files = {name: _file(group, metadata or {"format": "pt"}) for name, group in shards.items()}
    return files, _encode_index(shards).encode() if len(shards) > 1 else None


def file_names(infos: Iterable[TensorInfo], *, max_shard_bytes: int) -> tuple[str, ...]:
    """Of all files that `lay_out` gives, the index included."""
    files, index = lay_out(infos, max_shard_bytes=max_shard_bytes)
    return (*files, *([] if index is None else [INDEX_FILE]))


def _file(infos: list[TensorInfo], metadata: Mapping[str, str]) -> FileLayout:
    header = _encode_header(infos, metadata)
    starts, position = {}, len(header)
    for info in infos:
        starts[info.name] = position
        position += info.num_bytes
    return FileLayout(header, starts, position)


def _layout_key(info: TensorInfo) -> tuple[int, str]:
    return (-_DTYPE_RANK[_DTYPE_NAMES[info.dtype]], info.name)


def _plan_shards(infos: list[TensorInfo], max_shard_bytes: int) -> dict[str, list[TensorInfo]]:
    groups: list[list[TensorInfo]] = [[]]
    size_bytes = 0
    for info in infos:
        if groups[-1] and size_bytes + info.num_bytes > max_shard_bytes:
            groups.append([])
            size_bytes = 0
        groups[-1].append(info)
        size_bytes += info.num_bytes
    if len(groups) == 1:
        return {SINGLE_FILE: groups[0]}
    total = len(groups)
    return {f"model-{i:05d}-of-{total:05d}.safetensors": g for i, g in enumerate(groups, 1)}


def _encode_header(infos: list[TensorInfo], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    start_bytes = 0
    for info in infos:
        end_bytes = start_bytes + info.num_bytes
        entries[info.name] = {
            "dtype": _DTYPE_NAMES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [start_bytes, end_bytes],
        }
        start_bytes = end_bytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _encode_index(shards: Mapping[str, list[TensorInfo]]) -> str:
    weight_map = {info.name: name for name, infos in shards.items() for info in infos}
    total = sum(info.num_bytes for infos in shards.values() for info in infos)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return json.dumps(index, indent=2, sort_keys=True) + "\n"
