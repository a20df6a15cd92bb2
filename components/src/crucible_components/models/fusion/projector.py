"""Maps between the vision and the text width, and the latent tokens cut from the mapped picture.

Legend: N pictures, V patches of a crop (h x h), D text width, q latent tokens (l x l), w window.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class Projector(nn.Module):
    """Linear, GELU, linear; biases on."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_width, out_width)
        self.fc2 = nn.Linear(out_width, out_width)

    def forward(self, features: Tensor) -> Tensor:
        mapped: Tensor = self.fc2(functional.gelu(self.fc1(features)))
        return mapped


def stitch_crops(crops_N4VD: Tensor) -> Tensor:
    """One map (N, D, 2h, 2h) from the features of the crops TL, TR, BL, BR."""
    num_pictures, _, num_patches, width = crops_N4VD.shape
    side = math.isqrt(num_patches)
    tiles = crops_N4VD.reshape(num_pictures, 2, 2, side, side, width)
    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(num_pictures, width, 2 * side, 2 * side)


def pool_latents(map_NDhh: Tensor, query_len: int) -> Tensor:
    """Initial latent tokens (N, q, D), row-major: the map's adaptive maximum on an l x l grid."""
    pooled = functional.adaptive_max_pool2d(map_NDhh, math.isqrt(query_len))
    return pooled.flatten(2).transpose(1, 2)


def pool_windows(map_NDhh: Tensor, query_len: int, window_size: int) -> Tensor:
    """Context of each latent (N, q, w*w, D): its window of the map pooled to a (wl x wl) grid."""
    side = math.isqrt(query_len)
    pooled = functional.adaptive_max_pool2d(map_NDhh, side * window_size)
    num_pictures, width = pooled.shape[:2]
    cells = pooled.reshape(num_pictures, width, side, window_size, side, window_size)
    windows = cells.permute(0, 2, 4, 3, 5, 1)
    return windows.reshape(num_pictures, query_len, window_size**2, width)


def pad_none(features_N: Tensor) -> Tensor:
    """``features_N`` with one row of zeros behind it, what index -1 (no picture) reads."""
    return torch.cat([features_N, features_N.new_zeros(1, *features_N.shape[1:])])
