"""Layouts of random DAGs, checked against networkx and by their own promises."""

from __future__ import annotations

import itertools

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible_components.reporting.layout import layout_graph, reduce_edges

dags = st.integers(1, 12).flatmap(
    lambda size: st.tuples(
        *(st.lists(st.integers(0, max(0, node - 1)), max_size=4) for node in range(size))
    ).map(
        lambda rows: {
            f"n{node}": [f"n{parent}" for parent in row if parent != node]
            for node, row in enumerate(rows)
        }
    )
)


def graph_of(parents: dict[str, list[str]]) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(parents)
    graph.add_edges_from((p, node) for node, its in parents.items() for p in its)
    return graph


@settings(max_examples=150, deadline=None)
@given(dags)
def test_reduction_equals_networkx(parents: dict[str, list[str]]) -> None:
    ours = {(p, node) for node, its in reduce_edges(parents).items() for p in its}
    assert ours == set(nx.transitive_reduction(graph_of(parents)).edges)


@settings(max_examples=150, deadline=None)
@given(dags)
def test_layout_keeps_its_promises(parents: dict[str, list[str]]) -> None:
    layout = layout_graph(parents)
    assert layout_graph(parents) == layout
    assert list(layout.places) == list(parents)
    longest = {
        node: max(
            (
                nx.dag_longest_path_length(
                    graph_of(parents).subgraph(nx.ancestors(graph_of(parents), node) | {node})
                ),
            ),
            default=0,
        )
        for node in parents
    }
    assert {node: place.layer for node, place in layout.places.items()} == longest
    places = [*layout.places.values(), *(bend for *_, bends in layout.edges for bend in bends)]
    for first, second in itertools.combinations(places, 2):
        if first.layer == second.layer:
            assert abs(first.position - second.position) >= 1
    for parent, child, bends in layout.edges:
        crossed = range(layout.places[parent].layer + 1, layout.places[child].layer)
        assert [bend.layer for bend in bends] == list(crossed)
    assert max(abs(place.position) for place in places) <= (layout.width - 1) / 2
    assert layout.num_layers == max(longest.values()) + 1


def test_crossing_that_order_can_avoid_is_avoided() -> None:
    layout = layout_graph({"a": [], "b": [], "c": [], "x": ["c"], "y": ["b"], "z": ["a"]})
    above = [layout.places[node].position for node in ("c", "b", "a")]
    below = [layout.places[node].position for node in ("x", "y", "z")]
    assert above == below


def test_parents_outside_the_graph_are_left_out() -> None:
    assert reduce_edges({"a": ["gone"], "b": ["a", "a"]}) == {"a": [], "b": ["a"]}
