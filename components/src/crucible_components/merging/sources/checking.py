"""Reading a model folder's settings and headers, and refusing what cannot be merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch

from crucible.errors import ArtifactCorrupt, ArtifactError, Problem
from crucible_components.merging.sources.adapters import CONFIG_FILE as ADAPTER_CONFIG
from crucible_components.merging.sources.adapters import WEIGHTS_FILE as ADAPTER_WEIGHTS
from crucible_components.merging.sources.locating import Folder
from crucible_components.models.safetensors_format import INDEX_FILE, SINGLE_FILE
from crucible_components.models.weights import TensorInfo, TensorReader

CONFIG_FILE = "config.json"
CONVERSION = (
    'python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('OLD', dtype='auto').save_pretrained('NEW')\""
)
"""Writes safetensors whatever it read."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".gguf")
_QUANTISED = {torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2}
_PACKED = (".qweight", ".qzeros", ".weight_packed")
_MASKS = ("bias", "mask")
_DOWNLOAD = "Copy or download the file again."


@dataclass(frozen=True)
class _Some:
    """A folder of which only some files are seen; a `TensorSource`."""

    folder: Folder
    names: tuple[str, ...]

    def paths(self) -> tuple[str, ...]:
        return self.names

    def open(self, path: str) -> BinaryIO:
        return self.folder.open(path)


def read_settings(
    label: str, folder: Folder, path: str = CONFIG_FILE
) -> tuple[dict[str, Any], list[Problem]]:
    """The object in ``path``, else an empty one and why."""
    where = f"{label}.{path}"
    if path not in folder.paths():
        if is_adapter(folder):
            return {}, []  # said of the weights
        fix = "Give a model folder as transformers writes it."
        return {}, [Problem(path=where, message="is missing.", fix=fix)]
    try:
        value = folder.read_json(path)
        if not isinstance(value, dict):
            raise ValueError(f"holds a {type(value).__name__}, not an object")
    except (ValueError, OSError) as cause:
        return {}, [Problem(path=where, message=f"cannot be read: {cause}.", fix=_DOWNLOAD)]
    return value, []


def read_weights(
    label: str, folder: Folder, *, only: str | None = None
) -> tuple[TensorReader | None, list[Problem]]:
    """A reader of the weights that transformers would load, else every fault of every file.

    Args:
        label: how problems call the model.
        folder: the model's.
        only: the file to read, if not the model's weights.
    """
    names = (only,) if only else _weight_files(folder)
    if not names:
        return None, [_no_weights(label, folder)]
    try:
        return TensorReader(_Some(folder, names)), []
    except (ArtifactError, OSError) as cause:
        faults = [f for name in names if (f := _fault(folder, name)) is not None]
        return None, [
            Problem(path=label, message=fault, fix=_DOWNLOAD) for fault in faults or [str(cause)]
        ]


def is_adapter(folder: Folder) -> bool:
    """True if it holds an adapter and no model."""
    return ADAPTER_CONFIG in folder.paths() and not _weight_files(folder)


def check_values(
    label: str, config: Mapping[str, Any], infos: Mapping[str, TensorInfo]
) -> list[Problem]:
    """What is quantised, by settings or by types."""
    reasons = [
        f"{prefix}quantization_config says {_method(place['quantization_config'])}"
        for prefix, place in _places(config)
        if place.get("quantization_config")
    ]
    packed = [info for info in infos.values() if _is_quantised(info)]
    if packed:
        dtype = str(packed[0].dtype).removeprefix("torch.")
        reasons.append(f"{len(packed)} tensors are, such as {packed[0].name} ({dtype})")
    if not reasons:
        return []
    fix = (
        "Merge the model that it was quantised from, or dequantise it: load it with transformers, "
        "call dequantize() and save_pretrained()."
    )
    return [Problem(path=label, message=f"is quantised: {'; '.join(reasons)}.", fix=fix)]


def _weight_files(folder: Folder) -> tuple[str, ...]:
    """As transformers chooses: the single file, else the index and its files, else all."""
    paths = [p for p in folder.paths() if "/" not in p]
    if SINGLE_FILE in paths:
        return (SINGLE_FILE,)
    files = [p for p in paths if p.endswith(".safetensors") and p != ADAPTER_WEIGHTS]
    return (*files, INDEX_FILE) if files and INDEX_FILE in paths else tuple(files)


def _fault(folder: Folder, name: str) -> str | None:
    if name == INDEX_FILE:
        return None
    try:
        TensorReader(_Some(folder, (name,))).close()
    except (ArtifactCorrupt, OSError) as cause:
        return str(cause)
    return None


def _no_weights(label: str, folder: Folder) -> Problem:
    if ADAPTER_CONFIG in folder.paths():
        base, _ = read_settings(label, folder, ADAPTER_CONFIG)
        return Problem(
            path=label,
            message="is an adapter, not a model.",
            fix=f"Write BASE+ADAPTER: {base.get('base_model_name_or_path') or 'BASE'}+{label}.",
        )
    others = [p for p in folder.paths() if p.endswith(_PICKLES) and p != "training_args.bin"]
    if others:
        message = f"has no safetensors, only {', '.join(others[:3])}."
        return Problem(path=label, message=message, fix=f"Convert it: {CONVERSION}")
    return Problem(
        path=label,
        message="holds no .safetensors file.",
        fix=f"Give a model folder; convert one of another format: {CONVERSION}",
    )


def _places(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    nested = [(f"{key}.", value) for key, value in config.items() if isinstance(value, Mapping)]
    return [("", config), *nested]


def _method(settings: Any) -> str:
    named = settings.get("quant_method") if isinstance(settings, Mapping) else None
    return str(named or "so")


def _is_quantised(info: TensorInfo) -> bool:
    if info.name.endswith(_PACKED):
        return True
    is_mask = info.name.endswith(_MASKS)
    return info.dtype in _QUANTISED and len(info.shape) > 1 and not is_mask
