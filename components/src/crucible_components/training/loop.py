"""The training loop: a fixed number of steps, resumable at any of them, bit for bit.

Pictures and tokens are ready in memory; a step gathers them, runs forward and backward, clips and
updates. What a step does depends on the seed and its number only. Values for people (losses,
tokens per second) leave through a `Monitor`; nothing that depends on time enters the result.
Several ranks share each batch, see `crucible_components.training.replicas`; the state is the same
on all of them, so a run may resume with another number.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from crucible.errors import Cancelled, UserError
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
from crucible_components.training.replicas import Replicas

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
    replicas: Replicas | None = None,
) -> dict[str, float]:
    """Train ``model`` in place and return the sums and final losses of the run.

    Args:
        model: the same on every rank.
        processor: of the model.
        data: the same on every rank.
        settings: of the run.
        checkpoints: read by every rank, written by the first.
        monitor: told of every step.
        replicas: the ranks that train together; None: this process alone.

    Raises:
        UserError: there are more ranks than conversations in a batch.
        Cancelled: SIGTERM came, to any rank; the last finished step is saved.
    """
    replicas = replicas or Replicas()
    if settings.batch_size < replicas.size:
        raise UserError(
            f"batch_size: got {settings.batch_size} for {replicas.size} ranks, which share it. "
            f"Give at least {replicas.size}, or fewer nodes and gpus."
        )
    masters = MasterWeights(model, _common_precision(model, settings, replicas))
    choose_attention(model)
    optimizers = build_optimizers(
        settings.optimizer, masters.by_name, settings.rates, weight_decay=settings.weight_decay
    )
    first_step, sums = _restored(checkpoints, masters, optimizers, replicas)
    stepper = _Stepper(
        model, processor, data, settings, masters=masters, optimizers=optimizers, replicas=replicas
    )
    saver = _Saver(checkpoints, masters, optimizers, settings.checkpoint_seconds, replicas)
    model.train()
    with Interruption() as interruption, deterministic():
        for step in range(first_step, settings.num_steps):
            values = stepper.run(step)
            _add_up(sums, values, step, settings.num_steps)
            monitor(step + 1, values)
            stop = replicas.any(interruption.requested)
            saver.save(step + 1, sums, now=stop)
            if stop:
                raise Cancelled(
                    f"stopped by SIGTERM after step {step + 1} of {settings.num_steps}. "
                    "Resume the run to continue from there."
                )
    masters.restore_float32(model)
    choose_attention(model)
    model.train(False)
    return _final_metrics(sums, settings.num_steps)


def _common_precision(
    model: FusionForConditionalGeneration, settings: LoopSettings, replicas: Replicas
) -> torch.dtype:
    """One type for all: of unlike processors the plainest decides."""
    dtype = resolve_precision(settings.precision, model.device)
    return torch.float32 if replicas.any(dtype == torch.float32) else dtype


def _restored(
    checkpoints: Checkpoints, masters: MasterWeights, optimizers: Optimizers, replicas: Replicas
) -> tuple[int, dict[str, float]]:
    """Step to go on from and the sums up to it; the same weights on every rank."""
    first_step, sums = 0, {}
    if (found := checkpoints.latest()) is not None:
        first_step, folder = found
        sums = load_state(folder, masters, optimizers)
    replicas.check_equal(first_step, "the step to go on from")
    # Unlike processors draw unlike numbers for a new model.
    replicas.copy_from_first(masters.values().values())
    masters.publish()
    return first_step, sums


@dataclass
class _Saver:
    """Saves the state from time to time, on the first rank."""

    checkpoints: Checkpoints
    masters: MasterWeights
    optimizers: Optimizers
    seconds: float
    replicas: Replicas
    _saved_at: float = field(default_factory=time.monotonic)

    def save(self, position: int, sums: dict[str, float], *, now: bool) -> None:
        """Save if it is time, or ``now``; then all ranks wait, since the first to end ends all."""
        is_due = now or time.monotonic() - self._saved_at > self.seconds
        if is_due and self.replicas.is_main:
            with self.checkpoints.save(position) as folder:
                save_state(folder, self.masters, self.optimizers, sums)
            self._saved_at = time.monotonic()
        if now:
            self.replicas.wait_for_all()


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
        replicas: Replicas,
    ) -> None:
        self._model, self._processor, self._data = model, processor, data
        self._settings, self._masters, self._optimizers = settings, masters, optimizers
        self._replicas = replicas
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
        losses, num_targets = self._accumulate(self._plan.batch(step), query_len)
        parameters = list(self._masters.by_name.values())
        self._masters.collect_gradients()
        self._replicas.add_up_gradients(parameters)
        limit = float("inf") if settings.max_grad_norm is None else settings.max_grad_norm
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        self._optimizers.step()
        self._masters.publish()
        return StepValues(
            losses=losses,
            grad_norm=norm.item(),
            learning_rate=settings.rates.base * fraction,
            num_targets=num_targets,
            seconds=time.monotonic() - started,
        )

    def _accumulate(self, chosen: IndexArray, query_len: int) -> tuple[dict[str, float], int]:
        """Gradients of this rank's part of the batch; losses and supervised tokens of it all.

        Each term of the loss is a mean over the whole batch, so a rank's mean counts by its part of
        what the mean is taken over. A rank without a part has no gradients and adds nothing.
        """
        share = self._replicas.share(chosen)
        batch = self._collated(share, query_len) if len(share) else None
        own = _Counts.of(batch)
        whole = _Counts(*self._replicas.sums([own.targets, own.contexts, own.guidance]))
        terms: dict[str, Tensor] = {}
        if batch is not None:
            output: FusionOutput = self._model(
                **batch, query_len=query_len, num_items_in_batch=int(whole.targets) or 1
            )
            terms = own.weighted(output, whole)
            torch.autograd.backward(_total(terms, self._model.config.mapping_loss_weight))
        sums = self._replicas.sums(
            [_item(terms.get(name)) for name in _TERMS] + [float(name in terms) for name in _TERMS]
        )
        present = zip(_TERMS, sums, sums[len(_TERMS) :], strict=False)
        losses = {name: value for name, value, count in present if count}
        mapped = losses.get("text_to_vision", 0.0) + losses.get("vision_to_text", 0.0)
        total = losses["answer"] + self._model.config.mapping_loss_weight * mapped
        return {"total": total, **losses}, int(whole.targets)

    def _collated(self, chosen: IndexArray, query_len: int) -> dict[str, Tensor]:
        samples, inputs = self._data.gather(chosen)
        return {**self._processor.collate(samples, query_len), **inputs}


_TERMS = ("answer", "vision_to_text", "text_to_vision")


@dataclass(frozen=True)
class _Counts:
    """What the means of the loss are taken over."""

    targets: float
    """Supervised tokens."""
    contexts: float
    """Pictures with the questions that guide them."""
    guidance: float
    """Tokens of these questions."""

    @classmethod
    def of(cls, batch: Mapping[str, Tensor] | None) -> _Counts:
        if batch is None:
            return cls(0, 0, 0)
        mask = batch["guidance_mask"]
        return cls(int((batch["labels"] != IGNORE).sum()), len(mask), int(mask.sum()))

    def weighted(self, output: FusionOutput, whole: _Counts) -> dict[str, Tensor]:
        """The terms of ``output`` as parts of those of the whole batch."""
        weights = {
            "answer": 1.0,  # divided by the whole batch's tokens already
            "vision_to_text": self.guidance / max(1.0, whole.guidance),
            "text_to_vision": self.contexts / max(1.0, whole.contexts),
        }
        terms = {name: getattr(output, f"{name}_loss") for name in _TERMS}
        return {name: term * weights[name] for name, term in terms.items() if term is not None}


def _total(terms: Mapping[str, Tensor], mapping_weight: float) -> Tensor:
    """What `FusionForConditionalGeneration` computes of whole terms."""
    mapping = [terms[name] for name in ("text_to_vision", "vision_to_text") if name in terms]
    return terms["answer"] + mapping_weight * sum(mapping) if mapping else terms["answer"]


def _item(term: Tensor | None) -> float:
    return 0.0 if term is None else term.item()


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
