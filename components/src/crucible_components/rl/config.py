"""Settings of `train-grpo`. Imports nothing heavy.

Defaults follow the small-run recommendation for reasoning RL (group 16 lowered to 8 for one
processor): no KL, clip 0.2/0.28, temperature 1, on-policy, soft overlong penalty.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from crucible.sdk.component import ComponentConfig

LossType = Literal["grpo", "dapo", "dr_grpo"]
TrainedPart = Literal[
    "vision_tower", "text_to_vision", "vision_to_text", "interaction_layers", "language_model"
]


class RewardWeights(ComponentConfig):
    """Weight of each reward in their sum; 0 switches one off."""

    exact_match: float = Field(default=1.0, ge=0.0)
    """1 if the answer equals the record's after normalisation, else 0."""
    format: float = Field(default=0.1, ge=0.0)
    """1 if the answer is one non-empty line that the model ended itself, else 0."""
    overlong: float = Field(default=1.0, ge=0.0)
    """0 down to -1 over the last ``max_length_cache`` tokens before the limit."""


class GrpoConfig(ComponentConfig):
    """Settings of one reinforcement run."""

    num_steps: int = Field(default=100, ge=1)
    """Rounds of sampling and updating."""
    prompts_per_step: int = Field(default=16, ge=1)
    """Questions with a signal that one round wants."""
    group_size: int = Field(default=8, ge=2)
    """Answers sampled to each question and compared with each other."""
    categories: list[str] | None = None
    """Train on questions of these categories only; unset means all."""
    train_parts: list[TrainedPart] = Field(
        default=["vision_to_text", "interaction_layers", "language_model"], min_length=1
    )
    """What learns; the rest stays as it came. The default leaves seeing alone."""

    temperature: float = Field(default=1.0, gt=0.0, le=2.0)
    """Of sampling; the trained policy is the distribution at this temperature."""
    max_new_tokens: int = Field(default=16, ge=1)
    """Where an answer is cut."""
    max_length_cache: int = Field(default=4, ge=1)
    """The overlong penalty begins this many tokens before the limit."""
    max_draws_per_step: int = Field(default=3, ge=1)
    """Questions whose answers are all rewarded alike teach nothing; a round replaces them by new
    ones until it has drawn this often. 1 switches that off."""
    max_missing_fraction: float = Field(default=0.5, ge=0.0, le=1.0)
    """A round in which more answers than this could not be scored ends the run."""
    rewards: RewardWeights = RewardWeights()
    """What answers are rewarded for."""

    loss_type: LossType = "dapo"
    """How tokens are averaged: per answer (grpo), per batch (dapo), by a constant (dr_grpo)."""
    scale_rewards: Literal["group", "none"] | None = None
    """Divide advantages by the group's deviation, or not. Unset: none for dr_grpo, else group."""
    epsilon_low: float = Field(default=0.2, ge=0.0, lt=1.0)
    """Ratios below 1 minus this are clipped."""
    epsilon_high: float = Field(default=0.28, ge=0.0)
    """Ratios above 1 plus this are clipped."""
    max_ratio: float | None = Field(default=None, gt=1.0)
    """Cap on ratios of answers with a negative advantage; unset means none."""
    beta_kl: float = Field(default=0.0, ge=0.0)
    """Weight of the KL to the initial model in the loss; above 0 a second copy is held."""

    learning_rate: float = Field(default=1e-6, gt=0.0)
    """Of AdamW without weight decay. Published runs use 1e-6 to 3e-6 at billions of parameters; a
    model of a few millions needs about 1e-4."""
    warmup_steps: int = Field(default=0, ge=0)
    """Updates over which the learning rate rises linearly; constant afterwards."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients longer than this are shortened to it."""
    num_minibatches: int = Field(default=1, ge=1)
    """Updates per round; 1 is on-policy."""
    prompts_per_forward: int | None = Field(default=None, ge=1)
    """Questions scored at once, to bound memory; does not change the result. Unset: all."""
    checkpoint_every_steps: int = Field(default=20, ge=1)
    """Rounds between checkpoints."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_length_cache > self.max_new_tokens:
            raise ValueError(
                f"max_length_cache: {self.max_length_cache} is more than max_new_tokens "
                f"{self.max_new_tokens}. Lower it."
            )
        if self.num_minibatches > self.prompts_per_step:
            raise ValueError(
                f"num_minibatches: {self.num_minibatches} is more than prompts_per_step "
                f"{self.prompts_per_step}. Lower it."
            )
        if not any(self.rewards.model_dump().values()):
            raise ValueError("rewards: every weight is 0. Give at least one a positive weight.")
        return self

    @property
    def scales_by_std(self) -> bool:
        """Whether advantages are divided by the group's deviation."""
        if self.scale_rewards is None:
            return self.loss_type != "dr_grpo"
        return self.scale_rewards == "group"
