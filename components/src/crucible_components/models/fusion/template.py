"""Chat templates: the fixed texts around the turns of a conversation."""

from __future__ import annotations

from dataclasses import dataclass

IMAGE = "<image>"
LATENT = "<latent_image>"
VISION_START = "<vision_start>"
VISION_END = "<vision_end>"


@dataclass(frozen=True)
class Template:
    """``system user question end assistant answer end`` and again from ``user``."""

    system_prefix: str
    user_role: str
    assistant_role: str
    end: str


TEMPLATES = {
    "pico": Template("", "<|user|>", "<|assistant|>", "<|end|>"),
    "phi_3": Template(
        "<|system|>\nYou are a helpful AI assistant.<|end|>",
        "\n<|user|>\n",
        "\n<|assistant|>\n",
        "<|end|>",
    ),
    "llama_3": Template(
        "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful assistant that sees "
        "pictures and answers questions about them.<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
}
