"""Models of the Hugging Face hub: from the local cache if they are whole there, else downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crucible.errors import Problem, UserError
from crucible_components.models.safetensors_format import INDEX_FILE

WANTED = (
    "*.safetensors",
    "*.json",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "*.py",
    "merges.txt",
    "vocab.txt",
    "LICENSE*",
)
"""Weights as safetensors, settings, tokenizer, and code that the settings name (never run here)."""
UNWANTED = ("*/*", "consolidated*.safetensors")
"""Other formats of the same weights lie in folders, or beside them under this name."""


def download(name: str, revision: str | None) -> Path:
    """The snapshot folder of ``org/name``; its name is the commit.

    Raises:
        UserError: it cannot be had; ``problems`` holds one entry.
    """
    import huggingface_hub

    wanted: dict[str, Any] = {
        "revision": revision,
        "allow_patterns": list(WANTED),
        "ignore_patterns": list(UNWANTED),
    }
    try:
        cached = Path(huggingface_hub.snapshot_download(name, local_files_only=True, **wanted))
        if _is_whole(cached):
            return cached
    except (OSError, ValueError, KeyError):  # not in the cache, or not as it should be
        pass
    try:
        return Path(huggingface_hub.snapshot_download(name, **wanted))
    except Exception as cause:
        message, fix = _explain(name, revision, cause)
        label = name if revision is None else f"{name}@{revision}"
        problem = Problem(label, message, fix)
        raise UserError(str(problem), [problem]) from cause


def _is_whole(folder: Path) -> bool:
    """True if settings and all weights are there: others may have cached a tokenizer only."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    if not names & {"config.json", "adapter_config.json"}:
        return False
    if "model.safetensors" not in names and INDEX_FILE in names:
        weight_map = json.loads((folder / INDEX_FILE).read_text())["weight_map"]
        return set(weight_map.values()) <= names
    return any(name.endswith(".safetensors") for name in names)


def _explain(name: str, revision: str | None, cause: Exception) -> tuple[str, str]:
    """What went wrong and what to do."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{name}"
    if isinstance(cause, errors.GatedRepoError):
        return "is gated.", f"Accept its terms at {page} and set HF_TOKEN."
    if isinstance(cause, errors.RepositoryNotFoundError):
        return (
            "neither a folder here nor a model of the hub.",
            "Check the spelling; for a private model set HF_TOKEN.",
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return f"has no revision {revision!r}.", f"Choose one of {page}/tree/main."
    if isinstance(cause, errors.HFValidationError):
        return f"not a name of the hub: {cause}", "Give a folder that exists, or ORG/NAME."
    reason = f"{type(cause).__name__}: {cause}".splitlines()[0].rstrip(".")
    return (
        f"is not in the local cache and could not be downloaded ({reason}).",
        f"Check the network, or run `hf download {name}` where there is one and copy the cache.",
    )
