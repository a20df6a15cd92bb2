"""Model folders made in code: for tests of what opens and reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def write_folder(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, **files: str
) -> Path:
    """A model folder with one weight file; ``files`` are further ones, ``__`` for the dot."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    if tensors:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def small_config(**changes: Any) -> dict[str, Any]:
    """Of a Llama-like model with the tensors of `small_tensors`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4,
        "num_hidden_layers": 2,
        "vocab_size": 6,
        "tie_word_embeddings": False,
        **changes,
    }


def small_tensors(*, has_head: bool = True, seed: int = 0) -> dict[str, Tensor]:
    """Random bfloat16 tensors by their usual names."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (6, 4), "model.norm.weight": (4,)}
    for layer in range(2):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (4, 4)
        shapes[f"model.layers.{layer}.mlp.up_proj.weight"] = (8, 4)
    if has_head:
        shapes["lm_head.weight"] = (6, 4)
    return {
        name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()
    }
