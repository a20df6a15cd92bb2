"""Streaming safetensors: read one tensor at a time, write one tensor at a time.

A merge of models larger than memory needs the names, shapes and types of all tensors first and
their values one after another. `TensorReader` reads the headers of an artifact's safetensors files
and maps or range-reads single tensors. `TensorWriter` fixes the layout of all output files before
the first value exists, so that values may come in any order and are never held.

The bytes written equal those of ``safetensors.torch.save_file`` for the same tensors.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

import torch

from crucible.errors import ArtifactCorrupt, ArtifactError, ArtifactNotFound

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""What the safetensors library accepts."""

_DTYPES: dict[str, torch.dtype] = {
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
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# The library orders tensors by this rank of their type, highest first, then by name.
_DTYPE_ORDER = "BOOL U8 I8 F8_E5M2 F8_E4M3 I16 F16 BF16 I32 F32 F64 I64"
_DTYPE_RANK = {name: rank for rank, name in enumerate(_DTYPE_ORDER.split())}


class TensorSource(Protocol):
    """The part of `crucible.sdk.types.Artifact` that reading weights needs."""

    def paths(self) -> tuple[str, ...]: ...
    def open(self, path: str) -> BinaryIO: ...


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
class _Location:
    path: str
    start_bytes: int


class TensorReader:
    """All tensors of an artifact by name; values are read when asked for.

    ``infos`` maps names to `TensorInfo` in the order of the files. A file on this machine is
    memory-mapped; any other stream is read range by range. Use as a context manager.

    Raises:
        ArtifactNotFound: the artifact holds no safetensors file.
        ArtifactCorrupt: a header, or the index beside the files, is malformed or contradicts them.
    """

    def __init__(self, artifact: TensorSource) -> None:
        self._artifact = artifact
        self._streams: dict[str, BinaryIO] = {}
        self._maps: dict[str, mmap.mmap] = {}
        self._locations: dict[str, _Location] = {}
        self.infos: dict[str, TensorInfo] = {}
        try:
            self._scan()
        except BaseException:
            self.close()
            raise

    def _scan(self) -> None:
        index = _read_index(self._artifact)
        for path in _weight_paths(self._artifact, index):
            for info, start_bytes in _read_header(self._stream(path), path):
                if info.name in self.infos:
                    other = self._locations[info.name].path
                    raise ArtifactCorrupt(f"{info.name}: stored twice, in {other} and {path}.")
                self.infos[info.name] = info
                self._locations[info.name] = _Location(path, start_bytes)
        _check_index(index, self._locations)

    def read(self, name: str) -> torch.Tensor:
        """The tensor's values; a private, copy-on-write view of the file where it is local."""
        info, location = self.infos[name], self._locations[name]
        if info.num_bytes == 0:
            return torch.empty(info.shape, dtype=info.dtype)
        mapped = self._map(location.path)
        if mapped is not None:
            raw = torch.frombuffer(
                mapped, dtype=torch.uint8, count=info.num_bytes, offset=location.start_bytes
            )
        else:
            raw = torch.frombuffer(self._read_range(location, info.num_bytes), dtype=torch.uint8)
        if raw.data_ptr() % info.dtype.itemsize:
            raw = raw.clone()
        return raw.view(info.dtype).reshape(info.shape)

    def close(self) -> None:
        """Close the files. Mapped tensors that are still in use stay valid."""
        self._maps.clear()
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stream(self, path: str) -> BinaryIO:
        if path not in self._streams:
            self._streams[path] = self._artifact.open(path)
        return self._streams[path]

    def _map(self, path: str) -> mmap.mmap | None:
        if path not in self._maps:
            try:
                descriptor = self._stream(path).fileno()
            except (AttributeError, io.UnsupportedOperation):
                return None
            self._maps[path] = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
        return self._maps[path]

    def _read_range(self, location: _Location, num_bytes: int) -> bytearray:
        stream = self._stream(location.path)
        stream.seek(location.start_bytes)
        data = bytearray(num_bytes)
        done = 0
        while done < num_bytes:
            piece = stream.read(num_bytes - done)
            if not piece:
                raise ArtifactCorrupt(f"{location.path}: ends {num_bytes - done} bytes too early.")
            data[done : done + len(piece)] = piece
            done += len(piece)
        return data


class TensorWriter:
    """Writes tensors, in any order, into files whose layout is fixed at construction.

    One ``model.safetensors`` up to ``max_shard_bytes``, else numbered shards with an index.
    ``new_file`` turns a file name into the path to write (`Artifact.new_file`). Every file is
    written under a temporary name and renamed when the ``with`` block ends well; an error, or a
    tensor left unwritten, leaves no file.
    """

    def __init__(
        self,
        new_file: Callable[[str], Path],
        layout: Iterable[TensorInfo],
        *,
        metadata: Mapping[str, str] | None = None,
        max_shard_bytes: int = 5_000_000_000,
    ) -> None:
        self._infos = {info.name: info for info in sorted(layout, key=_layout_key)}
        self._pending = set(self._infos)
        self._files: dict[str, BinaryIO] = {}
        self._offsets: dict[str, tuple[str, int]] = {}
        self._targets: dict[str, Path] = {}
        shards = _plan_shards(list(self._infos.values()), max_shard_bytes)
        for name, infos in shards.items():
            self._targets[name] = new_file(name)
            header = _encode_header(infos, metadata or {"format": "pt"})
            file = self._files[name] = _temporary(self._targets[name]).open("wb")
            file.write(header)
            start_bytes = len(header)
            for info in infos:
                self._offsets[info.name] = (name, start_bytes)
                start_bytes += info.num_bytes
            file.truncate(start_bytes)
        self._index = _encode_index(shards) if len(shards) > 1 else None
        self._index_path = new_file(INDEX_FILE) if self._index is not None else None

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Store the values of ``name``.

        Raises:
            ValueError: the name is not in the layout, was written before, or type or shape differ.
        """
        info = self._infos.get(name)
        if info is None or name not in self._pending:
            raise ValueError(f"{name}: {'already written' if info else 'not in the layout'}.")
        if tensor.dtype != info.dtype or tuple(tensor.shape) != info.shape:
            raise ValueError(
                f"{name}: got {tensor.dtype} {tuple(tensor.shape)}, "
                f"the layout says {info.dtype} {info.shape}."
            )
        file_name, start_bytes = self._offsets[name]
        file = self._files[file_name]
        file.seek(start_bytes)
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        file.write(raw.numpy().data)
        self._pending.discard(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            for name, file in self._files.items():
                file.close()
                with contextlib.suppress(FileNotFoundError):  # renamed by the commit
                    _temporary(self._targets[name]).unlink()

    def _commit(self) -> None:
        if self._pending:
            raise ArtifactError(f"tensors never written: {', '.join(sorted(self._pending))}.")
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            _temporary(self._targets[name]).replace(self._targets[name])
        if self._index is not None and self._index_path is not None:
            temporary = _temporary(self._index_path)
            temporary.write_text(self._index)
            temporary.replace(self._index_path)


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + ".part")


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


def _read_index(artifact: TensorSource) -> dict[str, str] | None:
    if INDEX_FILE not in artifact.paths():
        return None
    with artifact.open(INDEX_FILE) as stream:
        try:
            weight_map = json.load(stream)["weight_map"]
        except (ValueError, KeyError, TypeError) as cause:
            raise ArtifactCorrupt(f"{INDEX_FILE}: no weight_map in it: {cause}.") from cause
    return {str(name): str(path) for name, path in weight_map.items()}


def _weight_paths(artifact: TensorSource, index: dict[str, str] | None) -> list[str]:
    present = {path for path in artifact.paths() if path.endswith(".safetensors")}
    wanted = set(index.values()) if index is not None else present
    if not wanted:
        raise ArtifactNotFound(
            "no .safetensors file in the artifact. Give a model folder with safetensors weights."
        )
    if missing := sorted(wanted - present):
        raise ArtifactCorrupt(f"{INDEX_FILE}: names files that are missing: {', '.join(missing)}.")
    return sorted(wanted)


def _check_index(index: dict[str, str] | None, locations: Mapping[str, _Location]) -> None:
    if index is None:
        return
    found = {name: location.path for name, location in locations.items()}
    if wrong := sorted({name for name, _ in index.items() ^ found.items()}):
        raise ArtifactCorrupt(f"{INDEX_FILE}: disagrees with the files about {', '.join(wrong)}.")


def _read_header(stream: BinaryIO, path: str) -> list[tuple[TensorInfo, int]]:
    """Infos with their absolute offsets, in file order; the layout is checked to be gapless."""
    size_bytes = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    try:
        (header_bytes,) = struct.unpack("<Q", stream.read(8))
        if header_bytes > min(MAX_HEADER_BYTES, size_bytes - 8):
            raise ValueError(f"header of {header_bytes} bytes in a file of {size_bytes}")
        header = json.loads(stream.read(header_bytes))
        header.pop("__metadata__", None)
        entries = sorted(header.items(), key=lambda item: tuple(item[1]["data_offsets"]))
        found, position = [], 0
        for name, entry in entries:
            info = TensorInfo(name, _DTYPES[entry["dtype"]], tuple(map(int, entry["shape"])))
            start, end = entry["data_offsets"]
            if start != position or end - start != info.num_bytes:
                raise ValueError(f"{name}: offsets {start}-{end} do not fit its type and shape")
            found.append((info, 8 + header_bytes + start))
            position = end
        if 8 + header_bytes + position != size_bytes:
            raise ValueError(f"{size_bytes} bytes long, the header describes another length")
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as cause:
        raise ArtifactCorrupt(f"{path}: not a valid safetensors file: {cause}.") from cause
    return found
