"""Select, calculate, erase (FuseChat 2.0, arXiv:2408.07990, and two codes that depart from it)."""

from __future__ import annotations

from crucible_components.merging.lazy import kernels, torch
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method

NOISE_FRACTION = 2.0**-24
"""Changes whose root mean square is below this share of the base's carry no weight information."""
_MIN_DIVISOR = 1e-6


@merge_method(
    "sce",
    Parameter("select_topk", 1.0, minimum=0.0, maximum=1.0),
    Parameter("variant", "U", choices=("P", "R", "U")),
    Parameter("int8_mask", False),
)
def sce(tensors: kernels.Tensors, values: Values) -> Merged:
    """Select by variance, calculate weights, erase minority signs.

    Keep the ``select_topk`` elements of largest variance over the models; weigh each model by
    its share η of the squared change there; add up ``η δ`` of those that agree with the majority.

    Variant P, the paper: the sum. R, as released with FuseO1: over all elements, divided by the η
    that counted. U, as in upstream mergekit: over the selected ones, divided likewise.

    Departs: U falls back to equal weights when changes drown in float32 noise relative to the base,
    not below an absolute size that light fine-tuning undercuts; elements on which all models agree
    are taken over to the bit.
    """
    variant = str(values["variant"])
    selected = _select(tensors, float(values["select_topk"]))
    eta_K = _calculate(tensors, selected, variant).float()
    mask = None if variant == "R" else selected

    def merged(block: kernels.Block) -> torch.Tensor:
        return _erase_and_merge(block, mask, eta_K, variant)

    return merged


class _Selected:
    """The elements of largest variance."""

    def __init__(self, tensors: kernels.Tensors, share: float) -> None:
        self._variance = tensors.remembered(_variance)
        changed = tensors.sum(lambda block: self._variance(block).count_nonzero())
        self._top = tensors.top(self._variance, [int(share * int(changed))])

    def __call__(self, block: kernels.Block) -> torch.Tensor:
        """[1, N], 1 for the selected, else 0."""
        return self._top(self._variance(block), block.start)


def _select(tensors: kernels.Tensors, share: float) -> _Selected | None:
    return None if share >= 1 else _Selected(tensors, share)


def _variance(block: kernels.Block) -> torch.Tensor:
    """[1, N], as keys."""
    return kernels.variance(block)[None]


def _calculate(tensors: kernels.Tensors, selected: _Selected | None, variant: str) -> torch.Tensor:
    """η, [K] float64."""

    def energies(block: kernels.Block) -> torch.Tensor:
        return kernels.energies(block, None if selected is None else selected(block))

    *_, base_energy = found = tensors.sum(energies)
    energy_K = found[:-1]
    total = float(energy_K.sum())
    noise = NOISE_FRACTION**2 * tensors.num_models * float(base_energy) if variant == "U" else 0.0
    if total <= noise:
        return torch.full_like(energy_K, 1 / tensors.num_models)
    return energy_K / total


def _erase_and_merge(
    block: kernels.Block, mask: _Selected | None, eta_K: torch.Tensor, variant: str
) -> torch.Tensor:
    eta, mask_1N = eta_K.tolist(), None if mask is None else mask(block)
    change_N, divisor_N = kernels.add_majority(
        block, votes=[1.0] * len(eta), factors=eta, weights=eta, mask_SN=mask_1N
    )
    if variant == "U":
        change_N /= divisor_N.clamp_min_(_MIN_DIVISOR)
    elif variant == "R":
        change_N /= divisor_N.add_(torch.eq(divisor_N, 0, out=torch.empty_like(divisor_N)))
    merged_N = change_N.add_(block.base_N)
    # What all agree on is taken as it is; among selected elements only what none changed is left.
    return kernels.take_agreed(block, merged_N, with_base=mask is not None)
