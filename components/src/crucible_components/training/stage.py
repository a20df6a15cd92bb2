"""One stage of training as a step: inputs to model and data, the loop, outputs."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import torch

from crucible.errors import UserError
from crucible_components.models.fusion import (
    FusionForConditionalGeneration,
    FusionProcessor,
    build_model,
    load_model,
)
from crucible_components.models.fusion.build import MAX_SMALL_WIDTH
from crucible_components.models.fusion.folder import write_model
from crucible_components.models.fusion.tokenizer import train_tokenizer
from crucible_components.training.batching import num_batches
from crucible_components.training.config import (
    STAGE_DEFAULTS,
    StageDefaults,
    TrainVlmConfig,
)
from crucible_components.training.dataset import TrainingSet, load_training_set, training_texts
from crucible_components.training.loop import LoopSettings, train
from crucible_components.training.optimizer import LearningRates
from crucible_components.training.precision import resolve_precision
from crucible_components.training.replicas import joined
from crucible_components.training.telemetry import Telemetry

if TYPE_CHECKING:
    from crucible.sdk.context import Context
    from crucible_components.training.component import TrainVlm

logger = logging.getLogger(__name__)

_DEFAULT_VOCAB_SIZE = 512


def run_stage(
    inputs: TrainVlm.Inputs, config: TrainVlmConfig, outputs: TrainVlm.Outputs, context: Context
) -> None:
    """Train, then write the model folder and the metrics; both depend on the inputs only.

    Of several ranks all train and the first one writes.
    """
    torch.set_num_threads(max(1, int(context.cpus)))
    model, processor = _start_model(inputs, config, context)
    data = load_training_set(
        inputs.dataset,
        processor,
        categories=config.categories,
        turns_per_sample=config.turns_per_sample or stage_defaults(config, model).turns_per_sample,
    )
    settings = resolve_settings(config, model, data, seed=context.seed_for("training"))
    _log_start(model, data, settings, context)
    with joined(context.rank, context.world_size, model.device) as replicas:
        metrics = train(
            model,
            processor,
            data,
            settings,
            checkpoints=context.checkpoint,
            monitor=Telemetry(settings.num_steps, context.progress, context.tracking),
            replicas=replicas,
        )
    if not context.is_main:
        return
    metrics["num_parameters"] = float(model.num_parameters())
    write_model(model, processor, outputs.model, context.scratch_dir)
    outputs.model.metadata.update(
        stage=config.stage, num_steps=settings.num_steps, num_parameters=model.num_parameters()
    )
    outputs.metrics.write(metrics)


def resolve_settings(
    config: TrainVlmConfig,
    model: FusionForConditionalGeneration,
    data: TrainingSet,
    *,
    seed: int,
) -> LoopSettings:
    """The loop's settings: the config's, where unset those of the stage at the model's size."""
    defaults = stage_defaults(config, model)
    batch_size = config.batch_size or defaults.batch_size
    per_epoch = num_batches(data.is_text_only, batch_size)
    base = config.learning_rate or defaults.learning_rate
    return LoopSettings(
        num_steps=config.steps or max(1, math.ceil((config.epochs or 1.0) * per_epoch)),
        batch_size=batch_size,
        rates=LearningRates(
            base=base,
            tower=config.tower_learning_rate or defaults.tower_learning_rate,
            projector=config.projector_learning_rate or base,
        ),
        query_lens=tuple(config.query_lens or model.config.query_lens),
        seed=seed,
        optimizer=config.optimizer or defaults.optimizer,
        warmup_ratio=config.warmup_ratio,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        precision=config.precision,
        checkpoint_seconds=config.checkpoint_seconds,
    )


def stage_defaults(config: TrainVlmConfig, model: FusionForConditionalGeneration) -> StageDefaults:
    """Published or pico defaults, by the width of the text model."""
    is_pico = model.config.text.hidden_size <= MAX_SMALL_WIDTH
    return STAGE_DEFAULTS["pico" if is_pico else "published"][config.stage]


def _start_model(
    inputs: TrainVlm.Inputs, config: TrainVlmConfig, context: Context
) -> tuple[FusionForConditionalGeneration, FusionProcessor]:
    if inputs.init is not None:
        if given := config.new_model_settings():
            raise UserError(
                f"{', '.join(given)}: only a new model can follow it, and init gives one. "
                "Remove the setting, or init."
            )
        return load_model(inputs.init.local_dir(), dtype=torch.float32)
    if config.stage != "alignment":
        raise UserError(
            f"init: stage {config.stage} continues a model. "
            "Give the model of the stage before, or start with stage alignment."
        )
    texts = training_texts([inputs.dataset, *(inputs.vocabulary or [])])
    tokenizer = train_tokenizer(texts, vocab_size=config.vocab_size or _DEFAULT_VOCAB_SIZE)
    guided = True if config.text_guidance is None else config.text_guidance
    return build_model(
        config.preset or "pico",
        tokenizer,
        seed=context.seed_for("initialisation"),
        text_guidance=guided,
    )


def _log_start(
    model: FusionForConditionalGeneration,
    data: TrainingSet,
    settings: LoopSettings,
    context: Context,
) -> None:
    dtype = resolve_precision(settings.precision, model.device)
    logger.info(
        "%d conversations, %d pictures; %d steps of %d, shared by %d processes; this one on %s "
        "with %d threads in %s (precision %s)",
        len(data),
        len(data.pixels_N),
        settings.num_steps,
        settings.batch_size,
        context.world_size,
        model.device,
        torch.get_num_threads(),
        str(dtype).removeprefix("torch."),
        settings.precision,
    )
    context.tracking.log_params(
        {
            "num_parameters": model.num_parameters(),
            "num_conversations": len(data),
            "num_pictures": len(data.pixels_N),
            "num_steps": settings.num_steps,
            "batch_size": settings.batch_size,
            "num_processes": context.world_size,
            "learning_rate": settings.rates.base,
            "tower_learning_rate": settings.rates.tower,
            "query_lens": ",".join(map(str, settings.query_lens)),
            "dtype": str(dtype).removeprefix("torch."),
        }
    )
