from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from crucible_components.merging.plan import check_values, plan_merge
from crucible_components.models.weights import TensorInfo


@dataclass
class InMemory:
    """Weights held as a dictionary; forbids reading values unless told."""

    tensors: dict[str, Tensor]
    readable: bool = True

    @property
    def infos(self) -> dict[str, TensorInfo]:
        return {n: TensorInfo(n, t.dtype, tuple(t.shape)) for n, t in self.tensors.items()}

    def read(self, name: str) -> Tensor:
        assert self.readable
        return self.tensors[name]


def base_tensors() -> dict[str, Tensor]:
    return {
        "a.weight": torch.ones(2, 3),
        "b.weight": torch.ones(4, dtype=torch.bfloat16),
        "steps": torch.tensor([1, 2]),
    }


def test_types_come_from_the_base_or_the_setting() -> None:
    models = [InMemory(base_tensors(), readable=False) for _ in range(3)]
    plan = plan_merge(models[1:], models[0], "base")
    assert plan.problems == ()
    found = [(p.output.name, p.output.dtype, p.is_copy) for p in plan.tensors]
    assert found == [
        ("a.weight", torch.float32, False),
        ("b.weight", torch.bfloat16, False),
        ("steps", torch.int64, True),
    ]
    wide = plan_merge(models[1:], models[0], "float16")
    assert [p.output.dtype for p in wide.tensors] == [torch.float16, torch.float16, torch.int64]


def test_every_header_problem_is_named_at_once() -> None:
    base = base_tensors() | {"packed": torch.zeros(2).to(torch.float8_e5m2)}
    first = {
        "a.weight": torch.ones(3, 2),
        "extra": torch.ones(1),
        "steps": torch.tensor([1.0, 2.0]),
        "packed": base["packed"],
    }
    second = base_tensors() | {"packed": base["packed"]}
    plan = plan_merge([InMemory(first), InMemory(second)], InMemory(base), "base")
    found = {problem.path: problem.message for problem in plan.problems}
    assert found == {
        "base.packed": "has type torch.float8_e5m2, which cannot be merged.",
        "models[0].a.weight": "has shape [3, 2], the base has [2, 3].",
        "models[0].b.weight": "is missing.",
        "models[0].extra": "is not a tensor of the base.",
        "models[0].steps": "has type torch.float32, which cannot be merged.",
    }
    assert all(problem.fix for problem in plan.problems)


def test_a_model_without_weights_cannot_be_merged() -> None:
    models = [InMemory({"steps": torch.tensor([1])}) for _ in range(3)]
    problems = plan_merge(models[1:], models[0], "base").problems
    assert [problem.path for problem in problems] == ["base"]


def test_bad_values_are_named_with_model_tensor_and_count() -> None:
    base, first, second = base_tensors(), base_tensors(), base_tensors()
    base["b.weight"][1] = float("inf")
    first["a.weight"][0, :2] = float("nan")
    second["steps"] = torch.tensor([1, 3])
    models = [InMemory(tensors) for tensors in (base, first, second)]
    plan = plan_merge(models[1:], models[0], "base")
    found = {p.path: p.message for p in check_values(plan, models[1:], models[0])}
    assert found == {
        "models[0].a.weight": "2 of 6 values are NaN, infinite or too large for torch.float32.",
        "base.b.weight": "1 of 4 values are NaN, infinite or too large for torch.bfloat16.",
        "models[1].steps": "differs from the base, but torch.int64 cannot be merged.",
    }


@pytest.mark.parametrize(("dtype", "num_problems"), [("base", 0), ("float16", 1)])
def test_values_must_fit_the_chosen_type(dtype: str, num_problems: int) -> None:
    base = {"a": torch.ones(2)}
    models = [InMemory(base), InMemory({"a": torch.tensor([1.0, 1e5])}), InMemory(base)]
    plan = plan_merge(models[1:], models[0], dtype)  # type: ignore[arg-type]
    assert len(check_values(plan, models[1:], models[0])) == num_problems
