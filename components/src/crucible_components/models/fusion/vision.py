"""SigLIP tower that may read the question while it looks.

The question's token features stand behind the patches, without position or norm of their own, and
pass through the same pretrained layers. With the intended mask patches ignore them in the first
half of the layers, so early vision stays as pretrained; in the second half all see all.

Legend: N pictures, H heads, V patches, T guidance tokens, K = V + T, C vision width, F = 3C.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.models.siglip.modeling_siglip import (
    SiglipEncoderLayer,
    SiglipPreTrainedModel,
    SiglipVisionEmbeddings,
)

from crucible_components.models.fusion.configuration import EarlyTextMask, FusionConfig


@dataclass(frozen=True)
class VisionFeatures:
    """What the tower returns for pictures, guided or not."""

    feature_NVF: Tensor
    """Multi-depth feature of the patches."""
    text_feature_NTF: Tensor | None
    """The same of the guidance tokens; None without guidance."""
    patch_NVC: Tensor
    """Patch and position embedding, the first hidden state: a mapping target."""


class FusionVisionTower(SiglipPreTrainedModel):  # type: ignore[no-untyped-call]
    """SigLIP's embeddings and kept layers under SigLIP's own parameter names."""

    main_input_name = "pixel_values"

    def __init__(self, config: FusionConfig) -> None:
        super().__init__(config.vision)
        self.embeddings = SiglipVisionEmbeddings(config.vision)
        self.layers = nn.ModuleList(
            SiglipEncoderLayer(config.vision) for _ in range(config.num_vision_layers)
        )
        self.num_early_layers = config.num_early_layers
        self.early_text_mask: EarlyTextMask = config.early_text_mask
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        pixel_values: Tensor,
        text_NTC: Tensor | None = None,
        text_mask_NT: Tensor | None = None,
    ) -> VisionFeatures:
        """Encode ``pixel_values`` (N, 3, side, side, in -1..1), guided where text is given."""
        hidden_NKC = patch_NVC = self.embeddings(pixel_values)
        num_patches = patch_NVC.shape[1]
        early_mask = late_mask = None
        if text_NTC is not None:
            hidden_NKC = torch.cat([patch_NVC, text_NTC.to(patch_NVC.dtype)], dim=1)
            if text_mask_NT is None:
                text_mask_NT = torch.ones_like(text_NTC[..., 0], dtype=torch.bool)
            early_mask, late_mask = guidance_masks(
                text_mask_NT, num_patches, self.early_text_mask, patch_NVC.dtype
            )
        feature_NKF = self._run_layers(hidden_NKC, early_mask, late_mask)
        return VisionFeatures(
            feature_NVF=feature_NKF[:, :num_patches],
            text_feature_NTF=None if text_NTC is None else feature_NKF[:, num_patches:],
            patch_NVC=patch_NVC,
        )

    def _run_layers(
        self, hidden_NKC: Tensor, early_mask: Tensor | None, late_mask: Tensor | None
    ) -> Tensor:
        """Final state, mean of the first states and mean of those after them, on channels."""
        early = self.num_early_layers
        states = [hidden_NKC]
        for index, layer in enumerate(self.layers):
            hidden_NKC = layer(hidden_NKC, early_mask if index < early else late_mask)
            states.append(hidden_NKC)
        shallow_NKC = sum(states[1:early], states[0]) / early
        deep_NKC = sum(states[early + 1 : 2 * early], states[early]) / early
        return torch.cat([hidden_NKC, shallow_NKC, deep_NKC], dim=-1)


def guidance_masks(
    text_mask_NT: Tensor, num_patches: int, early: EarlyTextMask, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Additive attention masks (N, 1, K, K) of the early and of the late layers.

    Padding is hidden in both. Values are the type's minimum, not minus infinity: a row of minima
    is a uniform softmax, which is what the released early mask means for text rows.
    """
    blocked = torch.finfo(dtype).min
    num_pictures, num_text = text_mask_NT.shape
    size = num_patches + num_text
    late = torch.zeros(num_pictures, 1, size, size, dtype=dtype, device=text_mask_NT.device)
    late[:, :, :, num_patches:].masked_fill_(~text_mask_NT[:, None, None, :].bool(), blocked)
    early_mask = late.clone()
    if early == "intended":
        early_mask[:, :, :num_patches, num_patches:] = blocked
    else:
        early_mask[:, :, num_patches:, :] = blocked
    return early_mask, late
