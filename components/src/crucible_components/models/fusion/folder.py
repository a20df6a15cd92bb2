"""Model folders: what transformers' ``from_pretrained`` reads, without code of its own."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers.utils import logging as transformers_logging

from crucible.errors import UserError
from crucible_components.models.fusion.modeling import FusionForConditionalGeneration
from crucible_components.models.fusion.processing import FusionProcessor
from crucible_components.models.fusion.registration import register

if TYPE_CHECKING:
    from crucible.sdk.types import Model, VisionLanguage

register()


def load_model(
    folder: Path | str, *, dtype: torch.dtype | str = "auto"
) -> tuple[FusionForConditionalGeneration, FusionProcessor]:
    """Model in evaluation mode and its processor.

    Raises:
        UserError: the folder holds no FUSION model.
    """
    folder = Path(folder)
    if missing := [n for n in ("config.json", "tokenizer.json") if not (folder / n).is_file()]:
        raise UserError(
            f"{folder}: {', '.join(missing)} missing. Give the folder of a FUSION model."
        )
    with _quiet():
        model = FusionForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    processor = FusionProcessor.from_pretrained(folder)
    return model.train(False), processor


def save_model(
    model: FusionForConditionalGeneration, processor: FusionProcessor, folder: Path | str
) -> None:
    """Write config, processor, tokenizer and safetensors into ``folder``."""
    with _quiet():
        model.save_pretrained(folder)
    processor.save_pretrained(folder)


def write_model(
    model: FusionForConditionalGeneration,
    processor: FusionProcessor,
    artifact: Model[VisionLanguage],
    scratch_dir: Path,
) -> None:
    """Write the model folder into a step's output."""
    folder = scratch_dir / "model"
    save_model(model, processor, folder)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            shutil.move(path, artifact.new_file(path.relative_to(folder).as_posix()))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers: logs of a step are read as lines."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
