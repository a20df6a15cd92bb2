"""What stands beside the weights of a model folder: configs and tokenizer.

A merge takes these files from the base, so they must mean the same in every source.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

from crucible.errors import Problem
from crucible.sdk.types import Artifact
from crucible_components.merging.config import OutputDtype

CONFIG_FILE = "config.json"
_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")
_DTYPE_KEYS = ("dtype", "torch_dtype")
_FREE_CONFIG_KEYS = {"_name_or_path", "transformers_version", *_DTYPE_KEYS}
"""May differ: they say how a folder was written, not what its weights mean."""
_SHARED_FILES = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "*processor_config.json",
)


def check_folders(models: Sequence[Artifact], base: Artifact) -> list[Problem]:
    """Name every setting and tokenizer file in which a model differs from the base."""
    problems = []
    shared = [path for path in base.paths() if any(fnmatch(path, p) for p in _SHARED_FILES)]
    for index, model in enumerate(models):
        problems += _compare_configs(f"models[{index}]", model, base)
        for path in shared:
            if path not in model.paths():
                problems.append(_differs(f"models[{index}].{path}", "is missing."))
            elif _content(model, path) != _content(base, path):
                problems.append(_differs(f"models[{index}].{path}", "differs from the base's."))
    return problems


def copy_base_files(base: Artifact, merged: Artifact, dtype: OutputDtype) -> None:
    """Give ``merged`` the base's files except weights; config.json names the new dtype."""
    for path in base.paths():
        if any(fnmatch(path, pattern) for pattern in _WEIGHT_FILES):
            continue
        if path == CONFIG_FILE and dtype != "base":
            merged.write_json(path, _with_dtype(base.read_json(path), dtype))
            continue
        with base.open(path) as stream:
            merged.new_file(path).write_bytes(stream.read())


def _compare_configs(label: str, model: Artifact, base: Artifact) -> list[Problem]:
    if CONFIG_FILE not in base.paths() or CONFIG_FILE not in model.paths():
        absent = "base" if CONFIG_FILE not in base.paths() else label
        return [_differs(f"{absent}.{CONFIG_FILE}", "is missing.")]
    ours, theirs = _flat(model.read_json(CONFIG_FILE)), _flat(base.read_json(CONFIG_FILE))
    return [
        _differs(
            f"{label}.{CONFIG_FILE}.{key}",
            f"is {ours.get(key, 'unset')!r}, the base has {theirs.get(key, 'unset')!r}.",
        )
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key) and key.rsplit(".", 1)[-1] not in _FREE_CONFIG_KEYS
    ]


def _differs(path: str, message: str) -> Problem:
    fix = "Merge only checkpoints that were fine-tuned from the base."
    return Problem(path=path, message=message, fix=fix)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _content(artifact: Artifact, path: str) -> Any:
    if path.endswith(".json"):
        return artifact.read_json(path)
    with artifact.open(path) as stream:
        return stream.read()


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    renamed = {
        key: _with_dtype(value, dtype) if isinstance(value, dict) else value
        for key, value in config.items()
    }
    return {key: dtype if key in _DTYPE_KEYS else value for key, value in renamed.items()}
