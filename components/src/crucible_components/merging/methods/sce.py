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
        """[N], 1 for the selected, else 0."""
        return self._top(self._variance(block), block.start)[0]


def _select(tensors: kernels.Tensors, share: float) -> _Selected | None:
    return None if share >= 1 else _Selected(tensors, share)


def _variance(block: kernels.Block) -> torch.Tensor:
    """Over the models, [1, N] float32; exactly 0 where all models are equal.

    Float64 makes it exact for 16-bit models: what is equal ties, in whatever order they come.
    """
    first_N, *others = block.models_KN.double()
    share = 1 / (len(others) + 1)
    mean_N = torch.zeros_like(first_N)
    for other_N in others:
        mean_N += other_N.sub_(first_N)
    mean_N *= share
    sum_N = torch.zeros_like(first_N)
    for other_N in (mean_N, *(other_N.sub_(mean_N) for other_N in others)):
        sum_N.addcmul_(other_N, other_N)
    return sum_N.mul_(share).float()[None]


def _calculate(tensors: kernels.Tensors, selected: _Selected | None, variant: str) -> torch.Tensor:
    """η, [K] float64."""

    def energies(block: kernels.Block) -> torch.Tensor:
        kept_KN = _kept(block, None if selected is None else selected(block)).double()
        base_N = block.base_N.double()
        return torch.stack([*(kept_N @ kept_N for kept_N in kept_KN), base_N @ base_N])

    *_, base_energy = found = tensors.sum(energies)
    energy_K = found[:-1]
    total = float(energy_K.sum())
    noise = NOISE_FRACTION**2 * tensors.num_models * float(base_energy) if variant == "U" else 0.0
    if total <= noise:
        return torch.full_like(energy_K, 1 / tensors.num_models)
    return energy_K / total


def _kept(block: kernels.Block, selected_N: torch.Tensor | None) -> torch.Tensor:
    deltas_KN = block.deltas_KN
    return deltas_KN if selected_N is None else deltas_KN * selected_N.to(deltas_KN.dtype)


def _erase_and_merge(
    block: kernels.Block, mask: _Selected | None, eta_K: torch.Tensor, variant: str
) -> torch.Tensor:
    kept_KN = _kept(block, None if mask is None else mask(block))
    change_N, divisor_N = _of_majority(kept_KN, eta_K.tolist())
    if variant == "U":
        change_N /= divisor_N.clamp_min_(_MIN_DIVISOR)
    elif variant == "R":
        change_N /= divisor_N.add_(torch.eq(divisor_N, 0, out=torch.empty_like(divisor_N)))
    merged_N = change_N.add_(block.base_N)
    # What all agree on is taken as it is; among selected elements only what none changed is left.
    agreed = block.models_KN if mask is None else [*block.models_KN, block.base_N]
    first_N, *others = agreed
    is_agreed_N = torch.ones(merged_N.shape, dtype=torch.int32)
    for other_N in others:
        is_agreed_N &= kernels.equal_bits(other_N, first_N)
    return kernels.chosen(is_agreed_N, first_N, merged_N)


def _of_majority(kept_KN: torch.Tensor, eta: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """``Σ η δ`` and ``Σ η`` of the changes that have the sign of ``Σ δ``, + where that is 0.

    Multiplied by that sign, those that agree are the positive ones. The sum that elects it is
    float64, so that it does not hang on the order of the models.
    """
    total_N = kept_KN[0].double()
    for kept_N in kept_KN[1:]:
        total_N += kept_N.double()
    counts_N = torch.empty_like(kept_KN[0])
    sign_N = torch.ge(total_N, 0, out=torch.empty_like(counts_N)).mul_(2).sub_(1)
    change_N, divisor_N = torch.zeros_like(sign_N), torch.zeros_like(sign_N)
    for kept_N, share in zip(kept_KN, eta, strict=True):
        agreeing_N = (kept_N * sign_N).clamp_min_(0)
        divisor_N += torch.gt(agreeing_N, 0, out=counts_N).mul_(share)
        change_N += agreeing_N.mul_(share)
    return change_N.mul_(sign_N), divisor_N
