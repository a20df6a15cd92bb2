from __future__ import annotations

import numpy as np
import pytest
import torch

from crucible_components.models.fusion.projector import pool_latents, pool_windows, stitch_crops


def test_stitching_restores_the_raster() -> None:
    raster = torch.arange(64.0).reshape(8, 8)
    crops = torch.stack([raster[:4, :4], raster[:4, 4:], raster[4:, :4], raster[4:, 4:]])
    stitched = stitch_crops(crops.reshape(1, 4, 16, 1))
    assert torch.equal(stitched[0, 0], raster)


@pytest.mark.parametrize("query_len", [4, 16, 36, 64, 144])
def test_a_latent_depends_on_its_own_window_only(query_len: int) -> None:
    side = int(query_len**0.5)
    pooled_side = 3 * side
    # A map of exactly the pooled size: cells and map positions coincide.
    grid = torch.rand(1, 2, pooled_side, pooled_side, requires_grad=True)
    windows = pool_windows(grid, query_len, 3)
    for latent in {0, side - 1, query_len // 2, query_len - 1}:
        (gradient,) = torch.autograd.grad(windows[0, latent].sum(), grid, retain_graph=True)
        row, column = divmod(latent, side)
        expected = torch.zeros(pooled_side, pooled_side)
        expected[3 * row : 3 * row + 3, 3 * column : 3 * column + 3] = 1
        assert torch.equal(gradient[0, 0], expected)


def test_windows_are_row_major_within_themselves() -> None:
    grid = torch.arange(36.0).reshape(1, 1, 6, 6)
    windows = pool_windows(grid, 4, 3)[0, :, :, 0]
    assert windows[0].tolist() == [0, 1, 2, 6, 7, 8, 12, 13, 14]
    assert windows[3].tolist() == [21, 22, 23, 27, 28, 29, 33, 34, 35]


def test_latents_are_maxima_of_their_cells() -> None:
    grid = torch.rand(2, 3, 8, 8)
    latents = pool_latents(grid, 4)
    blocks = grid.numpy().reshape(2, 3, 2, 4, 2, 4).max(axis=(3, 5)).reshape(2, 3, 4)
    np.testing.assert_array_equal(latents.numpy(), blocks.transpose(0, 2, 1))
