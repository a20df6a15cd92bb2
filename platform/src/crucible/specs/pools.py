"""Node pools of a context, with the convention where it says nothing."""

from __future__ import annotations

from crucible.specs.context import ContextDocument, PoolSpec, TolerationSpec

CPU_POOL = "cpu"
"""Any node will do for it, unless the context says otherwise."""
POOL_LABEL = "crucible.dev/pool"
_GPU_TAINT = "nvidia.com/gpu"


def pool_of(context: ContextDocument, name: str) -> PoolSpec:
    """The pool as the context has it, or by convention, with nothing unset."""
    pool = context.pools.get(name, PoolSpec())
    selector, tolerations = pool.node_selector, pool.tolerations
    if selector is None:
        selector = {} if name == CPU_POOL else {POOL_LABEL: name}
    if tolerations is None:
        tolerations = [] if name == CPU_POOL else [
            TolerationSpec(key=POOL_LABEL, operator="Equal", value=name, effect="NoSchedule"),
            TolerationSpec(key=_GPU_TAINT, operator="Exists", effect="NoSchedule"),
        ]  # fmt: skip
    return pool.model_copy(update={"node_selector": selector, "tolerations": tolerations})
