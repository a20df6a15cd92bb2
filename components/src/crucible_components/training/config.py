"""Settings of `train-vlm` and what each stage uses where they are unset. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from crucible.sdk.component import ComponentConfig

Stage = Literal["alignment", "fusion", "instruction"]
Preset = Literal["pico", "fusion-3b", "fusion-x-3b", "fusion-8b", "fusion-x-8b"]
Scale = Literal["pico", "published"]
OptimizerName = Literal["adamw", "muon"]
QueryLen = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class StageDefaults:
    """Rates and batch of one stage at one scale."""

    learning_rate: float
    tower_learning_rate: float
    batch_size: int
    optimizer: OptimizerName = "adamw"
    turns_per_sample: int | None = None


# Published: FUSION's training scripts, 3 B and 8 B models on pretrained parts. Pico: found by
# experiment on the synthetic scenes, see README.md; every part learns from nothing, so rates are
# higher and the tower is not held back.
STAGE_DEFAULTS: dict[Scale, dict[Stage, StageDefaults]] = {
    "published": {
        "alignment": StageDefaults(2e-5, 2e-5, 256),
        "fusion": StageDefaults(2e-5, 2e-6, 128),
        "instruction": StageDefaults(1e-5, 1e-6, 128),
    },
    "pico": {
        "alignment": StageDefaults(2e-3, 2e-3, 16, "muon", turns_per_sample=1),
        "fusion": StageDefaults(2e-3, 2e-3, 8, "muon", turns_per_sample=1),
        "instruction": StageDefaults(1e-3, 1e-3, 8, "muon", turns_per_sample=1),
    },
}


class TrainVlmConfig(ComponentConfig):
    """Settings of one training stage. All parts of the model are trained in every stage."""

    stage: Stage
    """alignment (captions), fusion (mixed conversations) or instruction (short answers). The stage
    chooses the defaults of rates and batch; the data is what the dataset holds."""
    steps: int | None = Field(default=None, gt=0)
    """Optimiser steps. Give this or ``epochs``."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the data. Unset with ``steps`` unset: 1, as published."""
    categories: list[str] | None = Field(default=None, min_length=1)
    """Train on records of these categories only, e.g. for a specialist. Unset: all."""
    batch_size: int | None = Field(default=None, gt=0)
    """Conversations a step. Unset: published 256 in alignment, 128 later; at pico size 16
    and 8."""
    turns_per_sample: int | None = Field(default=None, gt=0)
    """Cut conversations into samples of at most so many turns, which share the picture's crops. A
    sample's questions guide its tower together. Unset: whole conversations, as published; 1 at pico
    size, where many questions at once guide to nothing."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate. Unset: published 2e-5 (instruction: 1e-5) for pretrained parts; 2e-3
    (instruction: 1e-3) at pico size, where everything starts from nothing."""
    tower_learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of the vision tower. Unset: published 2e-5, 2e-6, 1e-6 by stage; at pico size
    the other parts' default rate."""
    projector_learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of the vision-to-text projector. Unset: ``learning_rate``, as published."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Part of the steps in which rates rise linearly; then a cosine to zero. Published: 0.03."""
    optimizer: OptimizerName | None = None
    """muon updates the weights of linear layers along the orthogonal factor of their momentum, and
    all else as adamw does. Unset: adamw, as published; at pico size muon, which learns to see from
    nothing in half the steps."""
    weight_decay: float = Field(default=0.0, ge=0)
    """On matrices only. Published: 0."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Clip the gradient's norm; null for none, as published. Short runs at high rates need it."""
    query_lens: list[QueryLen] | None = Field(default=None, min_length=1)
    """Numbers of latent tokens a turn, perfect squares, one drawn for each step. Unset: the
    model's; published 4, 16, 36, 64, 144."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the arithmetic; the optimiser keeps float32 weights in any case. auto: bfloat16
    where the processor has instructions for it, else float32."""
    checkpoint_seconds: float = Field(default=30.0, gt=0)
    """Save the state this often. A run that resumes ends with the same bits."""
    preset: Preset | None = None
    """Size of a new model. Only without ``init``; unset: pico."""
    text_guidance: bool | None = None
    """Whether a new model's tower reads the question. Only without ``init``; unset: true."""
    vocab_size: int | None = Field(default=None, ge=300)
    """Most tokens of a new model's vocabulary. Only without ``init``; unset: 512."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs are both set. Give one of them.")
        if self.stage != "alignment" and (given := self.new_model_settings()):
            raise ValueError(
                f"{', '.join(given)}: a new model starts in stage alignment, not {self.stage}. "
                "Remove the setting; the model of init keeps its own."
            )
        return self

    def new_model_settings(self) -> list[str]:
        """Names of the settings given that only a new model can follow."""
        names = ("preset", "text_guidance", "vocab_size")
        return [name for name in names if getattr(self, name) is not None]
