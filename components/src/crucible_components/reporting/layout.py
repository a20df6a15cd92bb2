"""Where the nodes of a DAG stand and how its edges run, drawn from top to bottom.

The usual four phases: edges that follow from others are dropped, nodes get layers by longest path,
edges over several layers get a bend in each, and layers are ordered by the mean of their
neighbours, back and forth, to avoid crossings.

Source: Sugiyama, Tagawa and Toda, IEEE Transactions on Systems, Man and Cybernetics 11 (1981).
Departs: layers are centred instead of optimised, which suits graphs of a few dozen nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

Parents = Mapping[str, Sequence[str]]

_SWEEPS = 6


@dataclass(frozen=True)
class Place:
    """A node's layer, counted from the top, and its position in it; 0 is the middle."""

    layer: int
    position: float


@dataclass(frozen=True)
class Layout:
    """A drawn DAG in units of one node."""

    places: Mapping[str, Place]
    edges: tuple[tuple[str, str, tuple[Place, ...]], ...]
    """From, to, and the bends between, one in each layer that is crossed."""
    num_layers: int
    width: float
    """Of the widest layer, in nodes."""


def layout_graph(parents: Parents) -> Layout:
    """The layout of the DAG whose nodes are the keys of ``parents``, in order."""
    reduced = reduce_edges(parents)
    layers = _layers(reduced)
    rows: list[list[str]] = [[] for _ in range(max(layers.values(), default=-1) + 1)]
    for node, layer in layers.items():
        rows[layer].append(node)
    above: dict[str, list[str]] = {node: [] for node in layers}
    chains: list[tuple[str, str, list[str]]] = []
    for child, its_parents in reduced.items():
        for parent in its_parents:
            bends = [f"{parent}\0{child}\0{k}" for k in range(layers[parent] + 1, layers[child])]
            for layer, bend in enumerate(bends, start=layers[parent] + 1):
                rows[layer].append(bend)
                above[bend] = []
            path = [parent, *bends, child]
            for upper, lower in itertools.pairwise(path):
                above[lower].append(upper)
            chains.append((parent, child, bends))
    _order(rows, above)
    places = {
        node: Place(layer, index - (len(row) - 1) / 2)
        for layer, row in enumerate(rows)
        for index, node in enumerate(row)
    }
    return Layout(
        places={node: places[node] for node in layers},
        edges=tuple((a, b, tuple(places[bend] for bend in bends)) for a, b, bends in chains),
        num_layers=len(rows),
        width=max(map(len, rows), default=0),
    )


def reduce_edges(parents: Parents) -> dict[str, list[str]]:
    """``parents`` without every parent that is also an ancestor of another parent."""
    ancestors: dict[str, set[str]] = {}
    for node in _in_order(parents):
        own = [parent for parent in parents[node] if parent in parents]
        ancestors[node] = set(own).union(*(ancestors[parent] for parent in own))
    reduced: dict[str, list[str]] = {}
    for node in parents:
        own = [parent for parent in dict.fromkeys(parents[node]) if parent in parents]
        implied = set[str]().union(*(ancestors[parent] for parent in own))
        reduced[node] = [parent for parent in own if parent not in implied]
    return reduced


def _layers(parents: Parents) -> dict[str, int]:
    layers: dict[str, int] = {}
    for node in _in_order(parents):
        layers[node] = 1 + max((layers[parent] for parent in parents[node]), default=-1)
    return {node: layers[node] for node in parents}


def _in_order(parents: Parents) -> list[str]:
    """All nodes, each after its parents."""
    known = {node: [p for p in its if p in parents] for node, its in parents.items()}
    return list(TopologicalSorter(known).static_order())


def _order(rows: list[list[str]], above: Mapping[str, Sequence[str]]) -> None:
    """Sort each row by the mean position of its neighbours, downwards and upwards in turn."""
    below: dict[str, list[str]] = {node: [] for node in above}
    for node, its_parents in above.items():
        for parent in its_parents:
            below[parent].append(node)
    for sweep in range(_SWEEPS):
        neighbours, sweep_rows = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        at = {node: i - (len(row) - 1) / 2 for row in rows for i, node in enumerate(row)}
        for row in sweep_rows:
            means = {
                node: sum(at[other] for other in found) / len(found) if found else at[node]
                for node in row
                for found in [neighbours[node]]
            }
            row.sort(key=means.__getitem__)
            at.update({node: i - (len(row) - 1) / 2 for i, node in enumerate(row)})
