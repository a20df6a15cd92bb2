"""Pools of nodes: what they have, what is in use, and why a pod does not fit there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from crucible.cluster.connection import Connection
from crucible.cluster.paths import path_of
from crucible.cluster.quantities import quantity, total
from crucible.cluster.wire import Json
from crucible.errors import ClusterRefused
from crucible.specs.context import PoolSpec, TolerationSpec

_MAX_ASKED_ONE_BY_ONE = 8
"""Nodes whose pods are asked for node by node; for more, all pods of the cluster are read."""
_LIVE = "status.phase!=Succeeded,status.phase!=Failed"
_GIB = 2.0**30


@dataclass(frozen=True)
class NodeView:
    """One node of a pool."""

    name: str
    is_ready: bool
    is_cordoned: bool
    repelling: tuple[str, ...]
    """Taints that the pool's pods do not tolerate, as ``key=value:effect``."""
    allocatable: Mapping[str, float]
    """By resource, in cores, bytes and pieces."""
    used: Mapping[str, float] | None
    """Requested by pods there; None if we may not see all of them."""

    @property
    def is_usable(self) -> bool:
        """New pods of the pool may land there."""
        return self.is_ready and not self.is_cordoned and not self.repelling

    def free(self, resource: str) -> float:
        """What is left, or all of it where nobody tells what is in use."""
        return self.allocatable.get(resource, 0.0) - (self.used or {}).get(resource, 0.0)


@dataclass(frozen=True)
class PoolView:
    """A pool as it is now."""

    name: str
    selector: str
    """What its nodes carry, as ``key=value,key=value``; empty: all nodes."""
    gpu_resource: str
    nodes: tuple[NodeView, ...]

    @property
    def num_gpus(self) -> int:
        return round(sum(node.allocatable.get(self.gpu_resource, 0) for node in self.nodes))

    @property
    def num_gpus_used(self) -> int | None:
        if any(node.used is None for node in self.nodes):
            return None
        return round(sum((node.used or {}).get(self.gpu_resource, 0) for node in self.nodes))


@dataclass(frozen=True)
class PlacementRequest:
    """What each pod of a step asks for, and how many nodes it needs at once."""

    gpus: int = 0
    cpus: float = 0.0
    memory_gib: float = 0.0
    num_nodes: int = 1


@dataclass(frozen=True)
class Placement:
    """Whether the request fits into the pool now, in words."""

    fits_now: bool
    fits_ever: bool
    """It would if the pool were empty and healthy."""
    text: str


def pool_view(connection: Connection, name: str, pool: PoolSpec) -> PoolView:
    """The pool's nodes and what is in use there; errors as `Connection.call`.

    Args:
        connection: the cluster.
        name: of the pool.
        pool: its selector and tolerations, with nothing unset.
    """
    selector = ",".join(f"{key}={value}" for key, value in (pool.node_selector or {}).items())
    action = f"list the nodes of pool {name}"
    items, _ = connection.items(action, path_of("v1", "nodes"), {"labelSelector": selector or None})
    used = _used(connection, [item["metadata"]["name"] for item in items])
    nodes = tuple(_node_view(item, pool.tolerations or [], used) for item in items)
    return PoolView(name, selector, pool.gpu_resource, nodes)


def placement_report(pool: PoolView, request: PlacementRequest) -> Placement:
    """Whether and why not; what is asked for per node is compared with what is free there."""
    if not pool.nodes:
        carries = f"no node carries {pool.selector}" if pool.selector else "there are no nodes"
        return Placement(False, False, carries)
    wanted = _wanted(pool, request)
    large = [n for n in pool.nodes if all(n.allocatable.get(r, 0) >= w for r, w in wanted.items())]
    fitting = [n for n in large if n.is_usable and all(n.free(r) >= w for r, w in wanted.items())]
    asked = _asked(request)
    if len(large) < request.num_nodes:
        text = f"{_no_node(pool, large, request)} {asked}: {_sizes(pool, wanted)}"
        return Placement(False, False, text)
    if len(fitting) < request.num_nodes:
        text = f"{_no_node(pool, fitting, request)} {asked} free: {_state(pool, wanted)}"
        return Placement(False, True, text)
    has = "has" if len(fitting) == 1 else "have"
    text = f"{_count(len(fitting), 'node')} of pool {pool.name} {has} {asked} free"
    return Placement(True, True, f"{text}{_unknown(pool)}")


def _wanted(pool: PoolView, request: PlacementRequest) -> dict[str, float]:
    wanted = {
        pool.gpu_resource: float(request.gpus),
        "cpu": request.cpus,
        "memory": request.memory_gib * _GIB,
    }
    return {resource: amount for resource, amount in wanted.items() if amount > 0}


def _asked(request: PlacementRequest) -> str:
    parts = [_count(request.gpus, "GPU")] if request.gpus else []
    parts += [f"{request.cpus:g} CPUs"] if request.cpus else []
    parts += [f"{request.memory_gib:g} GiB of memory"] if request.memory_gib else []
    return " and ".join(parts) or "room"


def _no_node(pool: PoolView, found: list[NodeView], request: PlacementRequest) -> str:
    if request.num_nodes == 1:
        return f"no node of pool {pool.name} has"
    verb = "has" if len(found) == 1 else "have"
    number = _count(len(found), "node") if found else "no node"
    return f"{request.num_nodes} nodes are needed, and {number} of pool {pool.name} {verb}"


def _sizes(pool: PoolView, wanted: Mapping[str, float]) -> str:
    """What the largest node has of each resource."""
    best = {r: max(node.allocatable.get(r, 0) for node in pool.nodes) for r in wanted}
    largest = " and ".join(_amount(pool, r, amount) for r, amount in best.items())
    return f"{_count(len(pool.nodes), 'node')}, the most on one is {largest or 'nothing'}"


def _state(pool: PoolView, wanted: Mapping[str, float]) -> str:
    """Numbers of nodes, what is in use, and which nodes are out of service."""
    parts = [_count(len(pool.nodes), "node")]
    for resource in wanted:
        sizes = sorted({node.allocatable.get(resource, 0.0) for node in pool.nodes})
        each = _amount(pool, resource, sizes[-1])
        parts.append(f"{each} each" if len(sizes) == 1 else f"up to {each}")
        if pool.num_gpus_used is not None:
            used = sum((node.used or {}).get(resource, 0.0) for node in pool.nodes)
            parts.append(f"{_amount(pool, resource, used).partition(' ')[0]} in use")
    parts += _out_of_service(pool.nodes)
    return ", ".join(parts) + _unknown(pool)


def _out_of_service(nodes: Iterable[NodeView]) -> Iterator[str]:
    reasons = {
        "cordoned": [node.name for node in nodes if node.is_cordoned],
        "not ready": [node.name for node in nodes if not node.is_ready],
    }
    for reason, names in reasons.items():
        if names:
            yield f"{len(names)} {reason} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
    taints = sorted({taint for node in nodes for taint in node.repelling})
    if taints:
        yield f"taints that the pool does not tolerate: {', '.join(taints[:3])}"


def _unknown(pool: PoolView) -> str:
    if pool.num_gpus_used is not None:
        return ""
    return " (what is in use is not known: no right to list pods of all namespaces)"


def _amount(pool: PoolView, resource: str, amount: float) -> str:
    if resource == "memory":
        return f"{amount / _GIB:.1f} GiB"
    if resource == "cpu":
        return f"{amount:g} CPUs"
    return _count(round(amount), "GPU") if resource == pool.gpu_resource else f"{amount:g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _node_view(
    item: Json, tolerations: list[TolerationSpec], used: Mapping[str, Mapping[str, float]] | None
) -> NodeView:
    spec, status, name = item.get("spec") or {}, item.get("status") or {}, item["metadata"]["name"]
    conditions = {entry["type"]: entry["status"] for entry in status.get("conditions") or []}
    taints = (t for t in spec.get("taints") or [] if t["effect"] in ("NoSchedule", "NoExecute"))
    return NodeView(
        name=name,
        is_ready=conditions.get("Ready") == "True",
        is_cordoned=bool(spec.get("unschedulable")),
        repelling=tuple(
            f"{taint['key']}={taint.get('value') or ''}:{taint['effect']}"
            for taint in taints
            if not taint["key"].startswith("node.kubernetes.io/")  # told by condition and cordon
            and not any(_tolerates(each, taint) for each in tolerations)
        ),
        allocatable=_amounts(status.get("allocatable") or {}),
        used=None if used is None else used.get(name, {}),
    )


def _tolerates(toleration: TolerationSpec, taint: Json) -> bool:
    if toleration.effect not in (None, taint["effect"]):
        return False
    if toleration.key is None:
        return toleration.operator == "Exists"
    if toleration.key != taint["key"]:
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == (taint.get("value") or "")


def _used(connection: Connection, nodes: list[str]) -> dict[str, dict[str, float]] | None:
    """Requests of the pods on each of ``nodes``; None without the right to see them."""
    chosen = [f"spec.nodeName={node},{_LIVE}" for node in nodes]
    if len(nodes) > _MAX_ASKED_ONE_BY_ONE:
        chosen = [_LIVE]
    parts: dict[str, list[dict[str, float]]] = {}
    try:
        for selector in chosen:
            query = {"fieldSelector": selector}
            items, _ = connection.items("list pods on nodes", path_of("v1", "pods"), query)
            for item in items:
                parts.setdefault(item["spec"].get("nodeName", ""), []).append(_requests(item))
    except ClusterRefused:
        return None
    return {node: total(requests) for node, requests in parts.items()}


def _requests(pod: Json) -> dict[str, float]:
    """What the scheduler counts: all containers, or the largest init container if it asks more."""
    spec = pod["spec"]
    together = total(
        [*map(_of_container, spec["containers"]), _amounts(spec.get("overhead") or {})]
    )
    for container in spec.get("initContainers") or []:
        for resource, amount in _of_container(container).items():
            together[resource] = max(together.get(resource, 0.0), amount)
    return together


def _of_container(container: Json) -> dict[str, float]:
    resources = container.get("resources") or {}
    return _amounts(resources.get("requests") or resources.get("limits") or {})


def _amounts(entries: Mapping[str, str]) -> dict[str, float]:
    return {resource: quantity(text) for resource, text in entries.items()}
