"""Order and cycles of a graph of names. Deterministic: ties keep the order of the keys."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping

Graph = Mapping[str, Collection[str]]
"""What each node needs. Names that are no keys are ignored."""


def topological_order(graph: Graph) -> list[str]:
    """All nodes, each after what it needs; among those that are free, in the order of the keys.

    Nodes on a cycle, and what needs them, are left out.
    """
    position = {name: index for index, name in enumerate(graph)}
    names = list(graph)
    waiting = {name: sum(need in position for need in set(graph[name])) for name in graph}
    dependants: dict[str, list[str]] = {name: [] for name in graph}
    for name, needs in graph.items():
        for need in set(needs):
            if need in position:
                dependants[need].append(name)
    free = [position[name] for name, count in waiting.items() if not count]
    order: list[str] = []
    while free:
        name = names[heapq.heappop(free)]
        order.append(name)
        for dependant in dependants[name]:
            waiting[dependant] -= 1
            if not waiting[dependant]:
                heapq.heappush(free, position[dependant])
    return order


def cycles(graph: Graph) -> Iterator[list[str]]:
    """Cycles ``[a, b, a]`` (each needs the next), such that no node is named twice."""
    left = {name: set(needs) for name, needs in graph.items()}
    while True:
        free = set(topological_order(left))
        left = {name: needs - free for name, needs in left.items() if name not in free}
        if not left:
            return
        cycle = _walk(left, next(iter(left)), graph)
        yield cycle
        for name in cycle[:-1]:
            del left[name]


def _walk(left: Mapping[str, set[str]], start: str, graph: Graph) -> list[str]:
    """Follow needs from ``start``, all of which lead on, until a node comes again."""
    path, seen = [start], {start: 0}
    while True:
        following = next(need for need in graph[path[-1]] if need in left)
        if following in seen:
            return [*path[seen[following] :], following]
        seen[following] = len(path)
        path.append(following)
