"""Writing safetensors in place: the layout of all files is fixed before the first value exists.

Values come in any order, from several threads, and are never held. What was written and synced is
found again by the next process that opens the same layout in the same folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from crucible.artifacts.files import storage_errors, sync_folder, write_at, write_atomically
from crucible_components.models.safetensors_format import INDEX_FILE, TensorInfo, lay_out


class WeightFiles:
    """The files of one model in ``folder``, with room for every value.

    ``is_resumed``: they were there already, with these headers and sizes.

    Raises:
        StoreFull: the disk has no room for them; nothing of them is left.
    """

    def __init__(
        self,
        folder: Path,
        layout: Iterable[TensorInfo],
        *,
        metadata: Mapping[str, str] | None = None,
        max_shard_bytes: int = 5_000_000_000,
    ) -> None:
        infos = list(layout)
        self._folder = folder
        self._infos = {info.name: info for info in infos}
        self._files, self._index = lay_out(
            infos, metadata=metadata, max_shard_bytes=max_shard_bytes
        )
        self._file_of = {name: path for path, f in self._files.items() for name in f.start_bytes}
        self._descriptors: dict[str, int] = {}
        self.is_resumed = all(self._is_there(name) for name in self._files)
        try:
            for name in self._files:
                self._descriptors[name] = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
            if not self.is_resumed:
                self._make()
        except BaseException:
            self.close()
            raise

    def _is_there(self, name: str) -> bool:
        path, layout = self._folder / name, self._files[name]
        if not path.is_file() or path.stat().st_size != layout.num_bytes:
            return False
        with path.open("rb") as stream:
            return stream.read(len(layout.header)) == layout.header

    def _make(self) -> None:
        try:
            for name, layout in self._files.items():
                with storage_errors(self._folder, f"make room for {name}"):
                    os.ftruncate(self._descriptors[name], 0)
                    os.posix_fallocate(self._descriptors[name], 0, layout.num_bytes)
                    write_at(self._descriptors[name], layout.header, 0)
        except BaseException:
            for name in self._descriptors:
                (self._folder / name).unlink(missing_ok=True)
            raise

    def write_span(self, name: str, start: int, values_N: torch.Tensor) -> None:
        """Store elements of ``name`` from ``start`` on."""
        info = self._infos[name]
        assert values_N.dtype == info.dtype
        path = self._file_of[name]
        raw = values_N.contiguous().view(torch.uint8).numpy().data
        offset = self._files[path].start_bytes[name] + start * info.dtype.itemsize
        write_at(self._descriptors[path], raw, offset)

    def sync(self, names: Iterable[str]) -> None:
        """Make the values of these tensors durable."""
        for path in sorted({self._file_of[name] for name in names}):
            os.fdatasync(self._descriptors[path])

    def finish(self) -> None:
        """Make all durable, and write the index."""
        for descriptor in self._descriptors.values():
            os.fsync(descriptor)
        if self._index is not None:
            write_atomically(self._folder / INDEX_FILE, self._index)
        sync_folder(self._folder)

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()
