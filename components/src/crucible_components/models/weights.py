"""Reading safetensors: names, shapes and types of all tensors first, values when asked for.

Values come by position from the file, not from a mapping of it: a mapped file that somebody cuts
short kills the process, and reading into a buffer costs no more.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Protocol, Self

import torch

from crucible.errors import ArtifactCorrupt, ArtifactNotFound
from crucible_components.models.safetensors_format import (
    DTYPES,
    INDEX_FILE,
    MAX_HEADER_BYTES,
    TensorInfo,
)

__all__ = ["Reader", "TensorInfo", "TensorReader", "TensorSource"]


class TensorSource(Protocol):
    """The part of `crucible.sdk.types.Artifact` that reading weights needs."""

    def paths(self) -> tuple[str, ...]: ...
    def open(self, path: str) -> BinaryIO: ...


class Reader(Protocol):
    """Reads as `TensorReader` does; what stands between it and who reads is one, too."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]: ...

    def read_span(self, name: str, span: slice) -> torch.Tensor: ...


@dataclass(frozen=True)
class _Location:
    path: str
    start_bytes: int


class TensorReader:
    """All tensors of an artifact by name; values are read when asked for.

    ``infos`` maps names to `TensorInfo` in the order of the files. Several threads may read at
    once; a stream that is no file of this machine is read range by range, by one at a time. Use as
    a context manager.

    Raises:
        ArtifactNotFound: the artifact holds no safetensors file.
        ArtifactCorrupt: a header, or the index beside the files, is malformed or contradicts them.
    """

    def __init__(self, artifact: TensorSource) -> None:
        self._artifact = artifact
        self._streams: dict[str, BinaryIO] = {}
        self._lock = threading.Lock()
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
        """The tensor's values."""
        info = self.infos[name]
        return self.read_span(name, slice(0, math.prod(info.shape))).reshape(info.shape)

    def read_span(self, name: str, span: slice) -> torch.Tensor:
        """The elements ``span`` of the flat tensor, copied; several threads may read at once."""
        info, location = self.infos[name], self._locations[name]
        values_N = torch.empty(span.stop - span.start, dtype=info.dtype)
        raw = values_N.view(torch.uint8).numpy().data
        start_bytes = location.start_bytes + span.start * info.dtype.itemsize
        self._read_into(location.path, start_bytes, raw)
        return values_N

    def _read_into(self, path: str, start_bytes: int, target: memoryview) -> None:
        descriptor = self._descriptor(path)
        done = 0
        while done < len(target):
            if descriptor is None:
                piece = self._read_piece(path, start_bytes + done, len(target) - done)
                target[done : done + len(piece)] = piece
                count = len(piece)
            else:
                count = os.preadv(descriptor, [target[done:]], start_bytes + done)
            if count == 0:
                raise ArtifactCorrupt(f"{path}: ends {len(target) - done} bytes too early.")
            done += count

    def _read_piece(self, path: str, start_bytes: int, num_bytes: int) -> bytes:
        with self._lock:
            stream = self._stream(path)
            stream.seek(start_bytes)
            return stream.read(num_bytes)

    def _descriptor(self, path: str) -> int | None:
        try:
            return self._stream(path).fileno()
        except (AttributeError, io.UnsupportedOperation):
            return None

    def close(self) -> None:
        """Close the files."""
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
            info = TensorInfo(name, DTYPES[entry["dtype"]], tuple(map(int, entry["shape"])))
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
