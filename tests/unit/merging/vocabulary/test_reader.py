"""Reading permuted embeddings: any span is a part of the whole, and no more is read than needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crucible_components.merging.vocabulary.reader import PermutedReader, check_columns
from crucible_components.merging.vocabulary.rows import ZEROS, RowPlans, Rule, plan_rows
from crucible_components.merging.vocabulary.testing import (
    EMBEDDING,
    HEAD,
    MemoryReader,
    embeddings,
)
from crucible_components.merging.vocabulary.tokens import Vocabulary
from crucible_components.models.weights import TensorInfo

NORM = "model.norm.weight"


def vocabulary(tokens: str) -> Vocabulary:
    return Vocabulary({token: i for i, token in enumerate(tokens.split())}, {}, {}, {})


KNOWN = {
    "a": vocabulary("the cat sat on a mat"),
    "b": vocabulary("cat sat dog ran far and fast"),
    "c": vocabulary("far and dog ran fast once"),
}
RESULT = vocabulary("the cat sat dog ran far and on a once zero none")
NAMES = dict.fromkeys(KNOWN, frozenset({EMBEDDING}))


def plans(multiple: int | None = 16) -> RowPlans:
    rules = [Rule("zero", ZEROS, 0, False), Rule("cat", 1, 3, True)]
    num_rows = {name: len(each.ids) for name, each in KNOWN.items()}
    return plan_rows(RESULT, KNOWN, num_rows, rules=rules, pad_to_multiple_of=multiple)


def models(dtype: torch.dtype = torch.float32) -> dict[str, MemoryReader]:
    return {
        name: embeddings(len(each.ids), num_columns=5, seed=seed, dtype=dtype)
        for seed, (name, each) in enumerate(KNOWN.items())
    }


def expected(readers: dict[str, MemoryReader], model: str) -> Tensor:
    """The permuted embedding, token by token; no base."""
    tensors = {name: reader.tensors[EMBEDDING] for name, reader in readers.items()}
    dtype = tensors[model].dtype
    rows_VC = torch.zeros(16, 5, dtype=dtype)
    for token, row in RESULT.ids.items():
        owned = {n: tensors[n][v.ids[token]] for n, v in KNOWN.items() if token in v.ids}
        if token == "cat":
            rows_VC[row] = tensors["b"][3]
        elif model in owned:
            rows_VC[row] = owned[model]
        elif owned:
            total_C = torch.stack([each.float() for each in owned.values()]).sum(dim=0)
            rows_VC[row] = (total_C / len(owned)).to(dtype)
    rows_VC[12:] = rows_VC[:12].double().mean(dim=0).to(dtype)
    return rows_VC


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model", list(KNOWN))
def test_the_whole(model: str, dtype: torch.dtype) -> None:
    readers = models(dtype)
    reader = PermutedReader(readers, model, rows=plans(), tensors=NAMES)
    assert reader.infos[EMBEDDING] == TensorInfo(EMBEDDING, dtype, (16, 5))
    assert reader.infos[NORM] == readers[model].infos[NORM]
    found = reader.read_span(EMBEDDING, slice(0, 80))
    assert found.dtype == dtype
    assert torch.equal(found.view(16, 5), expected(readers, model))
    assert torch.equal(reader.read_span(NORM, slice(1, 4)), readers[model].tensors[NORM][1:4])


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.sampled_from(list(KNOWN)), st.integers(0, 80), st.integers(0, 80))
def test_any_span_is_a_part_of_the_whole(model: str, first: int, last: int) -> None:
    first, last = sorted((first, last))
    readers = models(torch.bfloat16)
    reader = PermutedReader(readers, model, rows=plans(), tensors=NAMES)
    found = reader.read_span(EMBEDDING, slice(first, last))
    assert torch.equal(found, expected(readers, model).flatten()[first:last])


def test_only_what_is_needed_is_read_and_neighbours_at_once() -> None:
    readers = models()
    reader = PermutedReader(readers, "a", rows=plans(None), tensors=NAMES)
    reader.read_span(EMBEDDING, slice(37, 44))  # on, and most of a: rows 3 and 4 of the model
    assert readers["a"].spans == [(EMBEDDING, 17, 24)]
    assert readers["b"].spans == readers["c"].spans == []
    reader.read_span(EMBEDDING, slice(27, 33))  # far, and: averages of rows 4, 5 and 0, 1
    assert readers["a"].spans == [(EMBEDDING, 17, 24)]
    assert readers["b"].spans == [(EMBEDDING, 22, 28)]
    assert readers["c"].spans == [(EMBEDDING, 2, 8)]
    reader.read_span(EMBEDDING, slice(50, 60))  # zero, none
    assert [len(each.spans) for each in readers.values()] == [1, 1, 1]


def test_averages_are_rounded_once() -> None:
    known = {"a": vocabulary("x"), "b": vocabulary("t"), "c": vocabulary("t")}
    known["d"] = known["e"] = known["c"]
    values = {"a": 0.0, "b": 256.0, "c": 1.0, "d": 1.0, "e": 1.0}
    readers = {
        name: MemoryReader({EMBEDDING: torch.full((1, 2), value, dtype=torch.bfloat16)})
        for name, value in values.items()
    }
    rows = plan_rows(vocabulary("t"), known, dict.fromkeys(known, 1))
    names = dict.fromkeys(known, frozenset({EMBEDDING}))
    reader = PermutedReader(readers, "a", rows=rows, tensors=names)
    wanted = torch.tensor([259.0 / 4] * 2).bfloat16()
    assert torch.equal(reader.read_span(EMBEDDING, slice(0, 2)), wanted)
    in_steps = sum(torch.tensor([v]).bfloat16() for v in (256.0, 1.0, 1.0, 1.0)) / 4
    assert in_steps != wanted[0], "the values do not tell one rounding from many"


def test_other_types_and_names_of_donors() -> None:
    """A donor of another type, under another name, that uses its embedding as its head."""
    own = embeddings(1, num_columns=2, head=True, dtype=torch.bfloat16)
    donor_VC = torch.tensor([[1.00390625, 2.0], [3.0, 4.0]])
    donor = MemoryReader({"lm.wte.weight": donor_VC})
    known = {"a": vocabulary("x"), "b": vocabulary("y x")}
    rows = plan_rows(vocabulary("x y"), known, {"a": 1, "b": 2}, base="a")
    tensors = {"a": frozenset({EMBEDDING, HEAD}), "b": frozenset({"lm.wte.weight"})}
    reader = PermutedReader({"a": own, "b": donor}, "a", rows=rows, tensors=tensors)
    for name in (EMBEDDING, HEAD):
        found = reader.read_span(name, slice(0, 4))
        assert torch.equal(found[:2], own.tensors[name][0])
        assert torch.equal(found[2:], donor_VC[0].bfloat16())
        assert found[2] == 1.0


def test_threads_read_the_same() -> None:
    readers = models()
    reader = PermutedReader(readers, "b", rows=plans(), tensors=NAMES)
    spans = [slice(start, min(80, start + 7)) for start in range(0, 80, 7)] * 20
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda span: reader.read_span(EMBEDDING, span), spans))
    whole_N = expected(readers, "b").flatten()
    assert all(torch.equal(part, whole_N[span]) for part, span in zip(parts, spans, strict=True))


def test_biases_have_rows_of_one_element() -> None:
    readers = {
        "a": MemoryReader({"lm_head.bias": torch.tensor([1.0, 2.0])}),
        "b": MemoryReader({"lm_head.bias": torch.tensor([3.0, 4.0])}),
    }
    known = {"a": vocabulary("x y"), "b": vocabulary("y z")}
    rows = plan_rows(vocabulary("z y x"), known, {"a": 2, "b": 2}, base="a")
    tensors = dict.fromkeys(known, frozenset({"lm_head.bias"}))
    found = PermutedReader(readers, "a", rows=rows, tensors=tensors)
    assert found.infos["lm_head.bias"].shape == (3,)
    assert found.read_span("lm_head.bias", slice(0, 3)).tolist() == [4.0, 2.0, 1.0]


def test_donors_that_are_not_alike() -> None:
    def info(name: str, width: int) -> dict[str, TensorInfo]:
        return {name: TensorInfo(name, torch.float32, (9, width))}

    infos = {"a": info(EMBEDDING, 5), "b": info(EMBEDDING, 6), "c": info("lm_head.bias", 1)}
    names = {model: frozenset(each) for model, each in infos.items()}
    problems = check_columns(plans(), names, infos)
    found = {(problem.path, problem.message) for problem in problems}
    assert (f"b.{EMBEDDING}", "has rows of 6 elements; a takes rows of 5 from it.") in found
    assert (f"c.{EMBEDDING}", "is missing; a takes rows from it.") in found
    assert all(problem.fix for problem in problems)
    num_rows = {name: len(each.ids) for name, each in KNOWN.items()}
    averaged = plan_rows(vocabulary("far"), KNOWN, num_rows, pad_to_multiple_of=1)
    problems = check_columns(averaged, names, infos)
    assert f"b.{EMBEDDING}" in [problem.path for problem in problems]
    alike = dict.fromkeys(KNOWN, info(EMBEDDING, 5))
    assert check_columns(plans(), NAMES, alike) == []
