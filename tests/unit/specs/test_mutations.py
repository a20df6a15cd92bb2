"""Thousands of damaged pipeline files: a plan or a `UserError` with places, and nothing else.

Damage is done to the bytes (flips, cuts, doubled lines) and to the parsed tree (keys dropped,
doubled and misspelt, values of other types, deep nesting, odd Unicode), starting from a file that
uses every form. Each failure prints its seed; add the file to REGRESSIONS once it is mended.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crucible.errors import Problem, UserError
from crucible.plan import build
from crucible.specs import PipelineSpec, load_pipeline

NUM_BYTE_MUTANTS = 1000
NUM_TREE_MUTANTS = 1000

ODD_TEXTS = (
    "",
    " ",
    "${",
    "${}",
    "${params.}",
    "${params.nope}",
    "${params.names}",
    "x ${params.names} y",
    "${item}",
    "${steps.base.outputs.model}",
    "${steps.base.outputs.model.x}",
    "${steps.nope.outputs.x}",
    "${steps.fan.outputs.metrics.n}",
    "$${x",
    "artifact:sha256:0",
    "models:/",
    "file:///\0",
    "../../../../etc/passwd",
    "ünïcode \N{PILE OF POO}\u202e",
    "a" * 3000,
    "1e-3",
    "a.b[0].c",
)
ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 10**30, 1e-300, [], {}, [[]], [None], {"": None}, {"a": {"b": 1}}, *ODD_TEXTS
)  # fmt: skip


def outcome(path: Path) -> None:
    """Load and plan ``path``; fails if anything but a plan or located problems comes out."""
    problems: tuple[Problem, ...] = ()
    try:
        spec = load_pipeline(path)
        assert isinstance(spec, PipelineSpec)
        assert build(spec, resolve_model=lambda uri: uri).name == spec.metadata.name
    except UserError as error:
        problems = error.problems
        message = str(error)
        assert f"{len(problems)} problem" in message
    for problem in problems:
        assert problem.file is not None
        assert problem.line is not None
        assert problem.line >= 1
        assert problem.message
        assert len(str(problem)) < 4000


@pytest.fixture
def source(examples_dir: Path, tmp_path: Path) -> Path:
    """A copy of the example in a folder of its own."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "records.jsonl").write_text("{}\n")
    path = tmp_path / "pipeline.yaml"
    path.write_bytes((examples_dir / "pipeline.yaml").read_bytes())
    return path


PIECES = (
    b"{", b"[", b"&a ", b"*a ", b"<<: ", b"!!int ", b"\t", b"'", b'"', b"- ", b": ", b"? ", b"|\n",
    b"\xff", b"\xe2\x80\xae", b"\0", b"%", b"---\n", b"${", b"}", b"#", b"1e9999",
)  # fmt: skip


def flip(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def cut(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(40)]


def double_line(data: bytearray, rng: random.Random) -> None:
    lines = data.split(b"\n")
    index = rng.randrange(len(lines))
    lines.insert(rng.randrange(len(lines)), lines[index])
    data[:] = b"\n".join(lines)


def insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.choice(PIECES)


def test_damaged_bytes(source: Path) -> None:
    original = source.read_bytes()
    changes: tuple[Callable[[bytearray, random.Random], None], ...] = (
        flip, cut, double_line, insert
    )  # fmt: skip
    for seed in range(NUM_BYTE_MUTANTS):
        rng = random.Random(seed)
        data = bytearray(original)
        for _ in range(rng.randrange(1, 4)):
            rng.choice(changes)(data, rng)
        source.write_bytes(data)
        try:
            outcome(source)
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of ``value`` with each of its keys or indices."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, (dict, list)):
            yield from nodes(item)


def damage(tree: Any, rng: random.Random) -> None:
    """Change one node of ``tree`` in place."""
    holder, key = rng.choice(list(nodes(tree)))
    kind = rng.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    elif kind == 2 and isinstance(holder, dict):
        holder[f"{key}{rng.choice('sx_.-')}"] = holder.pop(key)
    elif kind == 3 and isinstance(holder, dict):
        holder[rng.choice(ODD_TEXTS)] = holder[key]
    elif kind == 4:
        for _ in range(rng.choice([1, 3, 60])):
            holder[key] = rng.choice([[holder[key]], {"a": holder[key]}])
    else:
        other, other_key = rng.choice(list(nodes(tree)))
        holder[key], other[other_key] = (
            copy.deepcopy(other[other_key]),
            copy.deepcopy(holder[key]),
        )


def test_damaged_trees(source: Path) -> None:
    original = yaml.safe_load(source.read_text())
    for seed in range(NUM_TREE_MUTANTS):
        rng = random.Random(seed)
        tree = copy.deepcopy(original)
        for _ in range(rng.randrange(1, 4)):
            if tree:
                damage(tree, rng)
        source.write_text(json.dumps(tree, indent=1))
        try:
            outcome(source)
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.sampled_from(ODD_TEXTS),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
SECTIONS = ("params", "defaults", "steps", "on_exit", "release", "metadata")
STEP_KEYS = ("uses", "with", "foreach", "when", "after", "retry", "resources", "seed", "cache")


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(st.sampled_from(SECTIONS), JSON, max_size=3),
    st.dictionaries(st.sampled_from(STEP_KEYS), JSON, max_size=4),
)
def test_sections_of_any_content(
    source: Path, sections: dict[str, Any], step: dict[str, Any]
) -> None:
    tree = {"apiVersion": "crucible/v1", "kind": "Pipeline", "metadata": {"name": "p"}}
    tree["steps"] = {"a": {"uses": "crucible.testing.components:Emit", **step}}  # type: ignore[assignment]
    source.write_text(json.dumps(tree | sections, indent=1))
    outcome(source)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=200))
def test_any_bytes(source: Path, data: bytes) -> None:
    source.write_bytes(data)
    outcome(source)


REGRESSIONS = (
    "steps: {a: {uses: 'crucible.testing.components:Emit', with: {values: {1: 2}}}}",
    "steps: {a: {uses: 'crucible.testing.components:Emit', retry: [], when: [[]]}}",
    "params: {x: {type: [integer]}}\nsteps: {}",
)


@pytest.mark.parametrize("body", REGRESSIONS)
def test_files_that_once_broke_us(tmp_path: Path, body: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(body)
    outcome(path)
