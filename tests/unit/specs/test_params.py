"""default < preset < --set, every value checked by its declaration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible.errors import UserError
from crucible.specs import load_pipeline

Write = Callable[[str], Path]
STEPS = "steps: {a: {uses: 'crucible.testing.components:Noop'}}\n"


@pytest.fixture
def resolve(write: Write) -> Callable[..., dict[str, Any]]:
    def resolve(params: str, preset: str | None = None, **overrides: str) -> dict[str, Any]:
        path = write(f"params: {params}\n{STEPS}")
        if preset is not None:
            presets_dir = path.parent / "presets"
            presets_dir.mkdir(exist_ok=True)
            (presets_dir / "x.yaml").write_text(
                f"apiVersion: crucible/v1\nkind: Preset\nparams: {preset}\n"
            )
        name = None if preset is None else "x"
        return load_pipeline(path, preset=name, overrides=overrides).params

    return resolve


def test_the_nearest_value_wins(resolve: Callable[..., dict[str, Any]]) -> None:
    declared = "{n: {type: integer, default: 1}}"
    assert resolve(declared) == {"n": 1}
    assert resolve(declared, "{n: 2}") == {"n": 2}
    assert resolve(declared, "{n: 2}", n="3") == {"n": 3}


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("integer", "12", 12),
        ("integer", "1e3", 1000),
        ("number", "1e-4", 1e-4),
        ("number", "2", 2),
        ("string", "12", "12"),
        ("string", "[a", "[a"),
        ("string", "", ""),
        ("boolean", "true", True),
        ("list", "[1, a]", [1, "a"]),
        ("list", "1, b", [1, "b"]),
        ("list", "one", ["one"]),
        ("list", "", []),
    ],
)
def test_overrides_are_read_by_the_parameters_type(
    resolve: Callable[..., dict[str, Any]], kind: str, text: str, value: object
) -> None:
    found = resolve(f"{{p: {{type: {kind}}}}}", p=text)["p"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("params", "overrides", "words"),
    [
        ("{n: {type: integer}}", {"n": "x"}, '--set n: got "x", wants an integer.'),
        ("{n: {type: integer}}", {"n": "1.5"}, "--set n: got 1.5, wants an integer."),
        ("{n: {type: integer}}", {"n": "true"}, "wants an integer"),
        ("{n: {type: boolean}}", {"n": "yes"}, "wants true or false"),
        ("{n: {type: list}}", {"n": "[1"}, "wants a list"),
        ("{n: {type: integer, minimum: 3}}", {"n": "2"}, "must be at least 3."),
        ("{n: {type: number, maximum: 1e-3}}", {"n": "2"}, "must be at most 0.001."),
        ("{n: {type: string, choices: [ab, cd]}}", {"n": "abb"}, "Did you mean 'ab'?"),
        ("{n: {type: list, choices: [1, 2]}}", {"n": "1,3"}, "got 3. Valid: 1, 2."),
        ("{num: {type: integer, default: 1}}", {"nun": "2"}, "Did you mean 'num'?"),
        ("{n: {type: integer}}", {}, "has no value. Give it a default, or --set n=VALUE."),
        ("{n: {type: integer, default: '7'}}", {}, 'n.default: got "7", wants an integer.'),
        ("{n: {type: integer, default: 1, minimum: 2}}", {"n": "5"}, "must be at least 2."),
        ("{n: {type: integer, minimum: 2, maximum: 1}}", {"n": "5"}, "above the maximum 1"),
        ("{n: {type: string, minimum: 2}}", {"n": "x"}, "n.minimum: bounds a number"),
        ("{n: {type: integer, choices: [1, b]}}", {"n": "1"}, 'choices[1]: got "b"'),
        ("{n: {type: float}}", {"n": "1"}, "Valid: 'integer', 'number', 'string'"),
        ("{a-b: {type: integer, default: 1}}", {}, "use letters, digits and '_'"),
    ],
)
def test_a_bad_parameter_is_one_problem(
    resolve: Callable[..., dict[str, Any]], params: str, overrides: dict[str, str], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        resolve(params, **overrides)
    assert [words in str(problem) for problem in caught.value.problems] == [True]


def test_a_bad_preset_value_points_into_the_preset(
    resolve: Callable[..., dict[str, Any]],
) -> None:
    with pytest.raises(UserError) as caught:
        resolve("{n: {type: integer, default: 1}}", "{n: x, m: 1}")
    lines = [str(problem) for problem in caught.value.problems]
    assert len(lines) == 2
    assert all("presets/x.yaml:3:" in line for line in lines)
    assert 'params.n: got "x", wants an integer.' in lines[0]
    assert "params.m: is no parameter of" in lines[1]


def test_an_unknown_preset_names_the_ones_there_are(examples_dir: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_pipeline(examples_dir / "pipeline.yaml", preset="smal")
    assert "Did you mean 'small'?" in str(caught.value.problems[0])


@pytest.mark.parametrize("name", ["../pipeline", "", "a/b", "small\0"])
def test_a_preset_is_a_name_and_no_path(examples_dir: Path, name: str) -> None:
    with pytest.raises(UserError, match="problem"):
        load_pipeline(examples_dir / "pipeline.yaml", preset=name)


def test_a_damaged_preset_is_reported_with_the_rest(
    resolve: Callable[..., dict[str, Any]],
) -> None:
    with pytest.raises(UserError) as caught:
        resolve("{n: {type: integer, default: x}}", "{n: [}")
    text = "\n".join(map(str, caught.value.problems))
    assert "params.n.default" in text
    assert "presets/x.yaml:3:" in text


def test_a_pipeline_is_no_preset(examples_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    text = (examples_dir / "pipeline.yaml").read_text()
    (tmp_path / "presets" / "x.yaml").write_text(text)
    (tmp_path / "p.yaml").write_text(text.replace("dataset: data, ", ""))
    with pytest.raises(UserError) as caught:
        load_pipeline(tmp_path / "p.yaml", preset="x")
    assert "kind: got \"Pipeline\". Valid: 'Preset'." in str(caught.value.problems[0])
