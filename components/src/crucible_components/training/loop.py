"""The training loop: a fixed number of steps, resumable at any of them, bit for bit.

Pictures and tokens are ready in memory; a step gathers them, runs forward and backward, clips and
updates. What a step does depends on the seed and its number only. Values for people (losses,
tokens per second) leave through a `Monitor`; nothing that depends on time enters the result.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from crucible.errors import Cancelled
from crucible_components.models.determinism import deterministic
from crucible_components.models.fusion import FusionForConditionalGeneration, FusionProcessor
from crucible_components.models.fusion.attention import choose_attention
from crucible_components.models.fusion.modeling import IGNORE, FusionOutput
from crucible_components.training.batching import BatchPlan, IndexArray, draw_query_len
from crucible_components.training.checkpoint import load_state, save_state
from crucible_components.training.config import OptimizerName
from crucible_components.training.dataset import TrainingSet
from crucible_components.training.interruption import Interruption
from crucible_components.training.optimizer import (
    LearningRates,
    Optimizers,
    build_optimizers,
    schedule_fraction,
)
from crucible_components.training.precision import MasterWeights, Precision, resolve_precision

_TAIL_FRACTION = 0.1
"""The final losses are means over this last part of the run."""


class Checkpoints(Protocol):
    """The part of `crucible.sdk.context.CheckpointStore` that the loop uses."""

    def save(self, position: int) -> contextlib.AbstractContextManager[Path]: ...
    def latest(self) -> tuple[int, Path] | None: ...


@dataclass(frozen=True)
class LoopSettings:
    """What `train` is told besides model and data."""

    num_steps: int
    batch_size: int
    rates: LearningRates
    query_lens: tuple[int, ...]
    seed: int
    optimizer: OptimizerName = "adamw"
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float | None = 1.0
    precision: Precision = "auto"
    checkpoint_seconds: float = 60.0


@dataclass(frozen=True)
class StepValues:
    """What one step measured."""

    losses: dict[str, float]
    """``total``, ``answer`` and, where pictures are, ``vision_to_text``, ``text_to_vision``."""
    grad_norm: float
    learning_rate: float
    num_targets: int
    """Supervised tokens."""
    seconds: float


Monitor = Callable[[int, StepValues], None]
"""Called with the number of finished steps and the values of the last."""


def train(
    model: FusionForConditionalGeneration,
    processor: FusionProcessor,
    data: TrainingSet,
    settings: LoopSettings,
    *,
    checkpoints: Checkpoints,
    monitor: Monitor,
) -> dict[str, float]:
    """Train ``model`` in place and return the sums and final losses of the run.

    Raises:
        Cancelled: SIGTERM came; the last finished step is saved.
    """
    masters = MasterWeights(model, resolve_precision(settings.precision, model.device))
    choose_attention(model)
    optimizers = build_optimizers(
        settings.optimizer, masters.by_name, settings.rates, weight_decay=settings.weight_decay
    )
    sums: dict[str, float] = {}
    first_step = 0
    if (found := checkpoints.latest()) is not None:
        first_step, folder = found
        sums = load_state(folder, masters, optimizers)
    stepper = _Stepper(model, processor, data, settings, masters=masters, optimizers=optimizers)
    saved_at = time.monotonic()
    model.train()
    with Interruption() as interruption, deterministic():
        for step in range(first_step, settings.num_steps):
            values = stepper.run(step)
            _add_up(sums, values, step, settings.num_steps)
            monitor(step + 1, values)
            stop = interruption.requested
            if stop or time.monotonic() - saved_at > settings.checkpoint_seconds:
                with checkpoints.save(step + 1) as folder:
                    save_state(folder, masters, optimizers, sums)
                saved_at = time.monotonic()
            if stop:
                raise Cancelled(
                    f"stopped by SIGTERM after step {step + 1} of {settings.num_steps}. "
                    "Resume the run to continue from there."
                )
    masters.restore_float32(model)
    choose_attention(model)
    model.train(False)
    return _final_metrics(sums, settings.num_steps)


class _Stepper:
    """One optimisation step at a time."""

    def __init__(
        self,
        model: FusionForConditionalGeneration,
        processor: FusionProcessor,
        data: TrainingSet,
        settings: LoopSettings,
        *,
        masters: MasterWeights,
        optimizers: Optimizers,
    ) -> None:
        self._model, self._processor, self._data = model, processor, data
        self._settings, self._masters, self._optimizers = settings, masters, optimizers
        self._plan = BatchPlan(
            data.lengths(processor),
            batch_size=settings.batch_size,
            seed=settings.seed,
            is_text_only=data.is_text_only,
        )

    def run(self, step: int) -> StepValues:
        started = time.monotonic()
        settings = self._settings
        fraction = schedule_fraction(step, settings.num_steps, settings.warmup_ratio)
        self._optimizers.set_learning_rates(fraction)
        query_len = draw_query_len(settings.query_lens, seed=settings.seed, step=step)
        output, num_targets = self._forward(self._plan.batch(step), query_len)
        assert output.loss is not None
        torch.autograd.backward(output.loss)
        self._masters.collect_gradients()
        limit = float("inf") if settings.max_grad_norm is None else settings.max_grad_norm
        norm = nn.utils.clip_grad_norm_(self._masters.by_name.values(), limit)
        self._optimizers.step()
        self._masters.publish()
        return StepValues(
            losses=_losses(output),
            grad_norm=norm.item(),
            learning_rate=settings.rates.base * fraction,
            num_targets=num_targets,
            seconds=time.monotonic() - started,
        )

    def _forward(self, chosen: IndexArray, query_len: int) -> tuple[FusionOutput, int]:
        samples, inputs = self._data.gather(chosen)
        batch = {**self._processor.collate(samples, query_len), **inputs}
        output: FusionOutput = self._model(**batch, query_len=query_len)
        return output, int((batch["labels"] != IGNORE).sum())


def _losses(output: FusionOutput) -> dict[str, float]:
    terms = {
        "total": output.loss,
        "answer": output.answer_loss,
        "vision_to_text": output.vision_to_text_loss,
        "text_to_vision": output.text_to_vision_loss,
    }
    return {name: term.item() for name, term in terms.items() if term is not None}


def _add_up(sums: dict[str, float], values: StepValues, step: int, total: int) -> None:
    sums["num_targets"] = sums.get("num_targets", 0.0) + values.num_targets
    if step < total * (1 - _TAIL_FRACTION) and step + 1 < total:
        return
    for name, value in values.losses.items():
        sums[f"tail/{name}"] = sums.get(f"tail/{name}", 0.0) + value
        sums[f"tail_count/{name}"] = sums.get(f"tail_count/{name}", 0.0) + 1


def _final_metrics(sums: dict[str, float], num_steps: int) -> dict[str, float]:
    metrics = {"num_steps": float(num_steps), "num_supervised_tokens": sums["num_targets"]}
    for key, value in sums.items():
        if key.startswith("tail/"):
            name = key.removeprefix("tail/")
            metrics[f"loss_{name}"] = value / sums[f"tail_count/{name}"]
    return metrics
