"""Drop changes at random and rescale the others (arXiv:2311.03099)."""

from __future__ import annotations

from crucible_components.merging.lazy import kernels, torch
from crucible_components.merging.methods.registry import Merged, Parameter, Values, merge_method

_PARAMETERS = (
    Parameter("weight", per_model=True),
    Parameter("density", 1.0, per_model=True, minimum=0.0, maximum=1.0),
    Parameter("normalize", False),
    Parameter("lambda", 1.0),
    Parameter("rescale", True),
    Parameter("int8_mask", False),
)


@merge_method("dare_linear", *_PARAMETERS, is_random=True)
def dare_linear(tensors: kernels.Tensors, values: Values) -> Merged:
    """Keep each change with probability ``density``; then as task_arithmetic."""
    return _dare(tensors, values, vote=False)


@merge_method("dare_ties", *_PARAMETERS, is_random=True)
def dare_ties(tensors: kernels.Tensors, values: Values) -> Merged:
    """Keep each change with probability ``density``; then vote and add up as ties does."""
    return _dare(tensors, values, vote=True)


def _dare(tensors: kernels.Tensors, values: Values, *, vote: bool) -> Merged:
    """Rescaling matches the L1 norm, as mergekit does since 0.1; the paper divides by density."""
    density_K = values["density"]
    seeds = random_seeds(tensors, values)
    rules = {"vote": vote, "normalize": values["normalize"], "scale": values["lambda"]}
    if float(density_K.min()) >= 1:
        return kernels.add_up(values["weight"], **rules)

    density_K1 = density_K.float()[:, None]

    def mask(block: kernels.Block) -> torch.Tensor:
        numbers_KN = block.uniform_KN(seeds)
        return torch.lt(numbers_KN, density_K1, out=numbers_KN)

    factors_K = kernels.kept_share_factors(tensors, mask) if values["rescale"] else None
    return kernels.add_up(values["weight"], **rules, mask=mask, factors_K=factors_K)


def random_seeds(tensors: kernels.Tensors, values: Values) -> tuple[int, ...]:
    """One a model, of this tensor's own."""
    seed = int(values["random_seed"])
    return tuple(kernels.seed_of(seed, tensors.name, str(k)) for k in range(tensors.num_models))
