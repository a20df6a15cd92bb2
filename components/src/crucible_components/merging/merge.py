"""One merge, prepared: what it will do, and doing it.

`Merge.run` writes into a folder, and goes on there if an earlier run of the same merge was ended.
Nothing in the folder is a model before all of it is written and durable.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import crucible
from crucible.artifacts.files import storage_errors, walk_files, write_atomically
from crucible.errors import Problem
from crucible_components.merging.execution.executor import Execution, Limits
from crucible_components.merging.execution.journal import Journal
from crucible_components.merging.kernels.tensors import REMEMBERED_ELEMENTS
from crucible_components.merging.methods import METHODS
from crucible_components.merging.options import MergeOptions
from crucible_components.merging.recipe.headers import TensorPlan
from crucible_components.merging.recipe.parsing import refused
from crucible_components.merging.recipe.schema import MergeFile
from crucible_components.merging.reporting import MergeReport
from crucible_components.merging.sources.card import model_card
from crucible_components.merging.sources.locating import Folder
from crucible_components.merging.sources.opening import Source
from crucible_components.merging.sources.result import result_files
from crucible_components.merging.vocabulary import is_tokenizer_file
from crucible_components.models.safetensors_format import TensorInfo, file_names
from crucible_components.models.weight_files import WeightFiles
from crucible_components.models.weights import Reader

JOURNAL_FILE = "journal.jsonl"
_PROCESS_BYTES = 700 << 20
"""Python, torch, numba and what blocks take; seen in tests/bench/merge.py."""


@dataclass(frozen=True)
class Merge:
    """A merge that nothing speaks against, with its models open."""

    file: MergeFile
    text: str
    """The file as it was given."""
    options: MergeOptions
    sources: Mapping[str, Source]
    """By how the file refers to them."""
    leader: str
    """The model whose settings and files the result has."""
    readers: Mapping[str, Reader]
    plans: tuple[TensorPlan, ...]
    config: Mapping[str, Any]
    """The result's config.json."""
    tokenizer_files: Mapping[str, bytes]
    tokenizer_differences: tuple[str, ...]
    notes: tuple[str, ...]
    """What its reader should know: tensors copied, settings that differ."""

    @property
    def output_bytes(self) -> int:
        """Of the result's weights."""
        return sum(plan.num_bytes for plan in self.plans)

    @property
    def input_bytes(self) -> int:
        """Read at least once; more often where a tensor does not fit into the cache."""
        return sum(self._input_bytes(plan) for plan in self.plans)

    @property
    def peak_bytes(self) -> int:
        """Of memory, at most about; the model's size is not in it."""
        largest = max((self._input_bytes(plan) for plan in self.plans), default=0)
        a_thread = min(largest, self.options.cache_bytes) + 4 * REMEMBERED_ELEMENTS
        return _PROCESS_BYTES + self.options.threads * a_thread

    def _input_bytes(self, plan: TensorPlan) -> int:
        return sum(self.readers[i.model].infos[i.tensor].num_bytes for i in plan.all)

    @cached_property
    def key(self) -> str:
        """Equal for merges that give the same bytes, sources unchanged."""
        told = {
            "crucible": crucible.__version__,
            "file": self.file.model_dump(mode="json"),
            "arithmetic": self.options.arithmetic,
            "random_seed": self.options.random_seed,
            "sources": {name: _identity(each) for name, each in self.sources.items()},
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def check_room(self, folder: Path) -> None:
        """Refuse a disk that cannot take the result.

        Raises:
            UserError: not enough is free; what an earlier run left in ``folder`` counts as free.
        """
        here = sum(path.stat().st_blocks * 512 for path in folder.glob("*.safetensors"))
        free = shutil.disk_usage(folder).free + here
        if self.output_bytes > free:
            needed, left = (f"{size / 1e9:.1f} GB" for size in (self.output_bytes, free))
            message = f"has {left} free; the result takes {needed}."
            raise refused([Problem(str(folder), message, "Free space, or write elsewhere.")])

    def run(
        self, folder: Path, on_tensor: Callable[[int, int], None] = lambda done, total: None
    ) -> MergeReport:
        """Write the result into ``folder``, which exists.

        Args:
            folder: holds nothing, or what an earlier run of this merge left.
            on_tensor: called with the number of tensors that are done, and of all.

        Returns:
            What was done; the journal is removed.

        Raises:
            StoreFull, StoreUnavailable: the disk; a rerun goes on.
            ArtifactError: a source cannot be read; a rerun goes on.
            ValuesNotFinite: a source holds NaN or infinity.
        """
        self._tidy(folder)
        self.check_room(folder)
        numbers = iter(range(1, len(self.plans) + 1))
        shard_bytes = self.options.max_shard_bytes
        with (
            storage_errors(folder, "write the merged model"),
            WeightFiles(folder, self._layout, max_shard_bytes=shard_bytes) as files,
        ):
            figures = self._execution.run(
                self.plans,
                files,
                Journal(folder / JOURNAL_FILE, self.key),
                lambda plan: on_tensor(next(numbers), len(self.plans)),
            )
            for name, content in self.files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / name, content)
        (folder / JOURNAL_FILE).unlink()
        return self.report(figures)

    def _tidy(self, folder: Path) -> None:
        """Remove what an earlier run left and this one does not go on with."""
        kept = {*self.weight_files, JOURNAL_FILE}
        for path in walk_files(folder):
            if path.relative_to(folder).as_posix() not in kept:
                path.unlink()

    @property
    def _layout(self) -> list[TensorInfo]:
        return [TensorInfo(plan.name, plan.dtype, plan.shape) for plan in self.plans]

    @property
    def weight_files(self) -> tuple[str, ...]:
        """Names of the result's files of weights, the index included."""
        return file_names(self._layout, max_shard_bytes=self.options.max_shard_bytes)

    @property
    def _execution(self) -> Execution:
        dtype = torch.float32
        if self.options.arithmetic == "mergekit":
            dtype = getattr(torch, self.file.dtype or "float32")
        options = self.options
        limits = Limits(options.threads, options.cache_bytes, options.commit_bytes)
        method = METHODS[self.file.merge_method]
        return Execution(method, self.readers, dtype, self.options.random_seed, limits)

    @cached_property
    def files(self) -> dict[str, bytes]:
        """All of the result but its weights, by path."""
        card = model_card(self.file, self.text, list(self.sources.values()))
        folder: Folder = self.sources[self.leader].folder
        found = result_files(folder, self.config, merge_yaml=self.text, card=card)
        kept = {name: each for name, each in found.items() if not is_tokenizer_file(name)}
        return {**kept, **self.tokenizer_files}

    def report(self, figures: list[Any]) -> MergeReport:
        """What was done."""
        bases = {plan.base.model for plan in self.plans if plan.base is not None}
        names = [each.model for plan in self.plans for each in plan.inputs]
        return MergeReport(
            figures=figures,
            method=self.file.merge_method,
            parameters=self._shown_parameters,
            sources=tuple(dict.fromkeys(names)),
            base=next(iter(sorted(bases)), None),
            notes=self.notes,
            tokenizer_differences=self.tokenizer_differences,
        )

    @property
    def _shown_parameters(self) -> dict[str, str]:
        shown = {name: json.dumps(_plain(v)) for name, v in self.file.parameters.items()}
        if self.file.dtype or self.file.out_dtype:
            shown["dtype"] = str(self.file.out_dtype or self.file.dtype)
        return {**shown, "arithmetic": self.options.arithmetic}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.model_dump() if hasattr(value, "model_dump") else value


def _identity(source: Source) -> Any:
    """The artifact's digest, or of each file of weights what tells that it was changed."""
    if source.digest is not None:
        return source.digest
    found = {}
    for path in source.folder.paths():
        if path.endswith((".safetensors", ".json")):
            with source.folder.open(path) as stream:
                state = os.fstat(stream.fileno())
                found[path] = [state.st_size, state.st_mtime_ns]
    return found
