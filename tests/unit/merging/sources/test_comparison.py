"""In which settings models may differ."""

from __future__ import annotations

from typing import Any

import pytest

from crucible_components.merging.sources.comparison import (
    FREE_KEYS,
    NOTED_KEYS,
    Comparison,
    compare_configs,
)
from crucible_components.merging.sources.testing import small_config


def compared(*, free: bool = False, **changes: Any) -> Comparison:
    configs = {"base": small_config(), "other": small_config(**changes)}
    return compare_configs(configs, "base", layers_are_free=free)


def test_equal_settings() -> None:
    assert compared() == Comparison((), ())
    assert compared(rope_scaling=None) == Comparison((), ())


@pytest.mark.parametrize("key", sorted(FREE_KEYS))
def test_free(key: str) -> None:
    configs = {"base": small_config(**{key: 1}), "other": small_config(**{key: 2})}
    assert compare_configs(configs, "base") == Comparison((), ())


@pytest.mark.parametrize("key", sorted(NOTED_KEYS))
def test_noted(key: str) -> None:
    configs = {"base": small_config(**{key: 1}), "other": small_config(**{key: 2})}
    found = compare_configs(configs, "base")
    assert found.problems == ()
    assert found.notes == (f"other: {key} is 2, in base 1. The result has the latter.",)


def test_any_other_is_fatal_and_all_are_told() -> None:
    found = compared(hidden_size=8, model_type="qwen2", vocab_size=9)
    assert [(p.path, p.message) for p in found.problems] == [
        ("other.config.json.hidden_size", "is 8, in base 4."),
        ("other.config.json.model_type", "is 'qwen2', in base 'llama'."),
    ]
    assert found.notes == ("other: vocab_size is 9, in base 6. The result has the latter.",)


def test_unset_is_noted() -> None:
    """It has a default, which may be what the other has."""
    found = compared(head_dim=2)
    assert found.problems == ()
    assert found.notes == ("other: head_dim is 2, in base unset. The result has the latter.",)


def test_nested_settings() -> None:
    configs = {
        "base": {"vision_config": {"depth": 2}, "text_config": {"rope_scaling": {"factor": 2}}},
        "other": {"vision_config": {"depth": 3}, "text_config": {"rope_scaling": {"factor": 4}}},
    }
    found = compare_configs(configs, "base")
    [problem] = found.problems
    assert problem.path == "other.config.json.vision_config.depth"
    [note] = found.notes
    assert note.startswith("other: text_config.rope_scaling.factor is 4, in base 2.")


def test_layers_are_free_where_slices_choose_them() -> None:
    kinds = {"num_hidden_layers": 3, "layer_types": ["a", "b", "a"], "mlp_only_layers": [2]}
    base = small_config(layer_types=["a", "b"], mlp_only_layers=[])
    configs = {"base": base, "other": small_config(**kinds)}
    assert compare_configs(configs, "base", layers_are_free=True) == Comparison((), ())
    paths = [problem.path for problem in compare_configs(configs, "base").problems]
    told = ("layer_types", "mlp_only_layers", "num_hidden_layers")
    assert paths == [f"other.config.json.{key}" for key in told]
    nested: dict[str, Any] = {
        name: {"text_config": config, "num_hidden_layers": config["num_hidden_layers"]}
        for name, config in configs.items()
    }
    assert compare_configs(nested, "base", layers_are_free=True) == Comparison((), ())
    nested["other"]["vision_config"] = {"num_hidden_layers": 3}
    nested["base"]["vision_config"] = {"num_hidden_layers": 2}
    [problem] = compare_configs(nested, "base", layers_are_free=True).problems
    assert problem.path == "other.config.json.vision_config.num_hidden_layers"


def test_what_the_base_lists_by_layer_all_must_list() -> None:
    configs = {"base": small_config(layer_types=["a", "b"]), "other": small_config()}
    [problem] = compare_configs(configs, "base", layers_are_free=True).problems
    assert problem.path == "other.config.json.layer_types"
    assert compare_configs(configs, "base").problems == ()
