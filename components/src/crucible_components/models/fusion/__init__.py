"""FUSION vision-language model. Importing it makes transformers' Auto classes know ``fusion``."""

from crucible_components.models.fusion.build import build_model
from crucible_components.models.fusion.configuration import FusionConfig
from crucible_components.models.fusion.folder import load_model, save_model
from crucible_components.models.fusion.generation import (
    Answer,
    completion_log_probs,
    generate_answers,
)
from crucible_components.models.fusion.layout import Turn
from crucible_components.models.fusion.modeling import FusionForConditionalGeneration
from crucible_components.models.fusion.processing import FusionProcessor

__all__ = [
    "Answer",
    "FusionConfig",
    "FusionForConditionalGeneration",
    "FusionProcessor",
    "Turn",
    "build_model",
    "completion_log_probs",
    "generate_answers",
    "load_model",
    "save_model",
]
