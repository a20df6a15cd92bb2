"""Order and cycles against the standard library's topological sorter."""

from __future__ import annotations

import graphlib
import itertools

from hypothesis import given
from hypothesis import strategies as st

from crucible.specs.graph import cycles, topological_order

GRAPHS = st.dictionaries(
    st.sampled_from("abcdefgh"), st.lists(st.sampled_from("abcdefghz"), max_size=3), max_size=8
)


def is_acyclic(graph: dict[str, list[str]]) -> bool:
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError:
        return False
    return True


@given(GRAPHS)
def test_every_node_stands_after_what_it_needs(graph: dict[str, list[str]]) -> None:
    order = topological_order(graph)
    for index, name in enumerate(order):
        assert all(need in order[:index] for need in graph[name] if need in graph)
    assert (len(order) == len(graph)) == is_acyclic(graph)


@given(GRAPHS)
def test_a_cycle_is_found_exactly_where_there_is_one(graph: dict[str, list[str]]) -> None:
    found = list(cycles(graph))
    assert bool(found) != is_acyclic(graph)
    named = [name for cycle in found for name in cycle[:-1]]
    assert len(named) == len(set(named))
    for cycle in found:
        assert cycle[0] == cycle[-1]
        assert all(need in graph[name] for name, need in itertools.pairwise(cycle))


@given(GRAPHS)
def test_breaking_the_cycles_leaves_none(graph: dict[str, list[str]]) -> None:
    on_cycles = {name for cycle in cycles(graph) for name in cycle}
    rest = {name: needs for name, needs in graph.items() if name not in on_cycles}
    assert is_acyclic(rest)


def test_ties_keep_the_order_of_the_file() -> None:
    assert topological_order({"c": [], "a": [], "d": ["b"], "b": ["c"]}) == ["c", "a", "b", "d"]


def test_a_long_chain_does_not_recurse() -> None:
    chain = {f"s{i}": [f"s{i + 1}"] for i in range(20_000)}
    assert topological_order(chain)[0] == "s19999"
    assert list(cycles(chain)) == []
