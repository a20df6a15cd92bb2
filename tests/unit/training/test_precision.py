from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from crucible_components.models.fusion import FusionForConditionalGeneration, FusionProcessor
from crucible_components.training.precision import MasterWeights, resolve_precision

Build = Callable[..., tuple[FusionForConditionalGeneration, FusionProcessor]]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_follows_the_processors_capabilities(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("float32", CPU) == torch.float32
    assert resolve_precision("bfloat16", CPU) == torch.bfloat16


def test_small_updates_survive_in_the_masters(build: Build) -> None:
    """A thousand steps of 1e-5 on a weight of 1: lost in bfloat16, kept in float32."""
    model, _ = build()
    with torch.no_grad():
        model.language_model.norm.weight.fill_(1.0)
    masters = MasterWeights(model, torch.bfloat16)
    norm = model.language_model.norm
    for _ in range(1000):
        with torch.no_grad():
            masters.by_name["language_model.norm.weight"] += 1e-5
        masters.publish()
    assert norm.weight.dtype == torch.bfloat16
    assert norm.weight[0].item() == pytest.approx(1.01, abs=0.004)
    masters.restore_float32(model)
    assert model.dtype == torch.float32
    assert norm.weight[0].item() == pytest.approx(1.01, abs=1e-4)


def test_gradients_move_to_the_masters(build: Build) -> None:
    model, _ = build()
    masters = MasterWeights(model, torch.bfloat16)
    model.lm_head.weight.grad = torch.full_like(model.lm_head.weight, 0.5)
    masters.collect_gradients()
    assert model.lm_head.weight.grad is None
    gradients = [p.grad for p in masters.by_name.values() if p.grad is not None]
    assert len(gradients) == 1  # the head is tied to the embedding and counted once
    assert gradients[0].dtype == torch.float32
    assert (gradients[0] == 0.5).all()


def test_float32_trains_the_model_itself(build: Build) -> None:
    model, _ = build()
    masters = MasterWeights(model, torch.float32)
    for name, parameter in model.named_parameters():
        assert masters.by_name[name] is parameter
