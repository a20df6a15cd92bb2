from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from crucible.errors import UserError
from crucible.sdk.component import Component, ComponentConfig, ComponentInputs
from crucible.sdk.types import Model
from crucible.sdk.validation import validate_config


class Sce(ComponentConfig):
    method: Literal["sce"]
    density_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2


class Linear(ComponentConfig):
    method: Literal["linear"]
    weights: list[Annotated[float, Field(ge=0)]]


class Merge(Component):
    name = "merge"

    class Inputs(ComponentInputs):
        models: list[Model]

    class Config(ComponentConfig):
        how: Annotated[Sce | Linear, Field(discriminator="method")]
        shard_bytes: int | Literal["auto"] = "auto"
        low: int = 0
        high: int = 1

        @model_validator(mode="after")
        def _ordered(self) -> "Merge.Config":
            if self.low > self.high:
                raise ValueError(f"low {self.low} is above high {self.high}")
            return self

    def run(self, inputs: Any, config: Any, outputs: Any, context: Any) -> None: ...


def problems_of(values: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(UserError) as caught:
        validate_config(Merge, values, where="steps.m.with")
    assert all(str(problem) in str(caught.value) for problem in caught.value.problems)
    return {problem.path: f"{problem.message} {problem.fix}" for problem in caught.value.problems}


def test_defaults_are_filled_in() -> None:
    config = validate_config(Merge, {"how": {"method": "sce"}}, where="w")
    assert config.model_dump()["how"] == {"method": "sce", "density_fraction": 0.2}


def test_all_problems_have_paths_of_the_file() -> None:
    found = problems_of(
        {"how": {"method": "linear", "weights": [1, -2], "weigths": 1}, "lwo": 1, "low": "many"}
    )
    assert found.keys() == {
        "steps.m.with.how.weights[1]",
        "steps.m.with.how.weigths",
        "steps.m.with.lwo",
        "steps.m.with.low",
    }
    assert (
        "got -2. Input should be greater than or equal to 0" in found["steps.m.with.how.weights[1]"]
    )
    assert "Did you mean 'weights'?" in found["steps.m.with.how.weigths"]
    assert "Did you mean 'low'?" in found["steps.m.with.lwo"]


def test_missing_setting_and_wrong_tag() -> None:
    assert "is required" in problems_of({})["steps.m.with.how"]
    assert "'sce', 'linear'" in problems_of({"how": {"method": "ties"}})["steps.m.with.how"]


def test_misspelt_input_slot_is_suggested_too() -> None:
    found = problems_of({"how": {"method": "sce"}, "modls": 1})
    assert "Did you mean 'models'?" in found["steps.m.with.modls"]


def test_cross_field_rule_stands_at_the_whole() -> None:
    found = problems_of({"how": {"method": "sce"}, "low": 3})
    assert "Low 3 is above high 1." in found["steps.m.with"]


def test_union_members_are_no_part_of_the_path() -> None:
    assert problems_of({"how": {"method": "sce"}, "shard_bytes": [1]}).keys() == {
        "steps.m.with.shard_bytes"
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(["how", "low", "high", "shard_bytes", "other"]), json_values, max_size=5
    )
)
def test_any_json_gives_a_config_or_a_user_error(values: dict[str, Any]) -> None:
    try:
        config = validate_config(Merge, values, where="w")
    except UserError as error:
        config = None
        problems = error.problems
    assert isinstance(config, Merge.Config) or problems
