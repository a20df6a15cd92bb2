"""From artifacts to a training run and back: what `train-grpo` does around the loop."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import nn

from crucible.sdk.types import Dataset, Predictions
from crucible_components.data.records import DatasetWriter, ImageArchive
from crucible_components.models.determinism import deterministic
from crucible_components.models.fusion import (
    FusionForConditionalGeneration,
    FusionProcessor,
    load_model,
)
from crucible_components.models.fusion.folder import write_model
from crucible_components.rl.config import GrpoConfig, TrainedPart
from crucible_components.rl.loop import StepReport, train_grpo
from crucible_components.rl.measures import summarise
from crucible_components.rl.policy import FusionPolicy
from crucible_components.rl.prompts import PromptStream, read_prompts, select_prompts
from crucible_components.rl.state import RunProgress

if TYPE_CHECKING:
    from crucible.sdk.context import Context
    from crucible_components.rl.component import TrainGrpo

logger = logging.getLogger(__name__)

_MAX_CACHED_IMAGES = 4096


def reinforce(
    inputs: TrainGrpo.Inputs,
    config: GrpoConfig,
    outputs: TrainGrpo.Outputs,
    context: Context,
) -> None:
    """Train, then write model, summary and samples."""
    model, processor = load_model(inputs.model.local_dir())
    stored_dtype = model.dtype
    # Updates of 1e-6 vanish in bfloat16 weights.
    nn.Module.to(model, torch.float32)
    with ImageArchive(inputs.prompts) as archive:
        prompts = select_prompts(read_prompts(inputs.prompts), config.categories)
        stream = PromptStream(
            prompts, context.seed_for, load_image=lru_cache(_MAX_CACHED_IMAGES)(archive.read)
        )
        logger.info("%d questions; training %s", len(prompts), ", ".join(config.train_parts))
        progress = _train(model, processor, stream, config, context)
        _write_samples(progress, archive, outputs.samples)
    nn.Module.to(model, stored_dtype)
    write_model(model, processor, outputs.model, context.scratch_dir)
    outputs.metrics.write(summarise(progress.history))


def _train(
    model: FusionForConditionalGeneration,
    processor: FusionProcessor,
    stream: PromptStream,
    config: GrpoConfig,
    context: Context,
) -> RunProgress:
    reference = None
    if config.beta_kl > 0:
        reference = _policy(copy.deepcopy(model), processor, config, trained_parts=())
    policy = _policy(model, processor, config, trained_parts=config.train_parts)

    def report(step: StepReport) -> None:
        context.tracking.log_metrics(step.measures | step.timings, step=step.step)
        message = f"reward {step.measures['reward']:.3f}"
        context.progress.update(step.step, config.num_steps, message=message)

    with deterministic():
        return train_grpo(
            policy,
            stream,
            config,
            seed_for=context.seed_for,
            checkpoints=context.checkpoint,
            reference=reference,
            on_step=report,
        )


def _policy(
    model: FusionForConditionalGeneration,
    processor: FusionProcessor,
    config: GrpoConfig,
    *,
    trained_parts: Iterable[TrainedPart],
) -> FusionPolicy:
    return FusionPolicy(
        model,
        processor,
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        trained_parts=trained_parts,
    )


def _write_samples(
    progress: RunProgress, archive: ImageArchive, samples: Dataset[Predictions]
) -> None:
    with DatasetWriter(samples) as writer:
        for record in progress.samples:
            fields = {name: value for name, value in record.items() if value is not None}
            if "image" in fields:
                fields["image"] = writer.add_image(archive.read_bytes(fields["image"]))
            writer.add_record(fields)
