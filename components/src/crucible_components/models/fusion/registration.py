"""Makes ``AutoConfig``, ``AutoModelForImageTextToText`` and ``AutoProcessor`` know FUSION."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from crucible_components.models.fusion.configuration import FusionConfig
from crucible_components.models.fusion.modeling import FusionForConditionalGeneration
from crucible_components.models.fusion.processing import FusionProcessor


def register() -> None:
    """Register all classes; calling it again changes nothing."""
    AutoConfig.register(FusionConfig.model_type, FusionConfig, exist_ok=True)
    AutoModelForImageTextToText.register(
        FusionConfig, FusionForConditionalGeneration, exist_ok=True
    )
    AutoProcessor.register(FusionConfig, FusionProcessor, exist_ok=True)  # type: ignore[no-untyped-call]
