"""Names and values: MLflow's own validators are the oracle."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from crucible.tracking.client import connect
from crucible.tracking.fields import MAX_PARAM_CHARS, flatten, mlflow_key, param_value, tag_value

assert connect  # its import of mlflow is the quiet one


@given(st.text(min_size=1, max_size=300))
@settings(max_examples=300, deadline=None)
def test_every_name_becomes_one_that_mlflow_accepts(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    key = mlflow_key(name)
    _validate_metric_name(key)
    _validate_param_name(key)
    assert 0 < len(key) <= 250


@given(st.from_regex(r"\A[a-z][\w.\- ]{0,20}(/[a-z][\w.\- ]{0,20}){0,3}\Z"))
def test_names_that_mlflow_accepts_stay(name: str) -> None:
    assert mlflow_key(name) == name


def test_different_names_stay_apart() -> None:
    names = [
        "pass@1",
        "pass 1",
        "pass/1",
        "a//b",
        "a/b",
        "./a",
        "a",
        "x" * 300,
        "x" * 301,
        "%",
        "(",
    ]
    assert len({mlflow_key(name) for name in names}) == len(names)


def test_long_values_name_their_digest_instead_of_being_cut() -> None:
    long = "y" * (MAX_PARAM_CHARS + 1)
    assert param_value("y" * MAX_PARAM_CHARS) == "y" * MAX_PARAM_CHARS
    assert "6001 characters, sha256:" in param_value(long)
    assert tag_value(long) == long
    assert len(tag_value("z" * 9000)) < 8000


def test_flatten_keeps_every_leaf() -> None:
    config = {"a": {"b": {"c": 1.5}, "empty": {}}, "list": [1, "x"], "none": None, "on": True}
    assert flatten(config) == {
        "a.b.c": "1.5",
        "a.empty": "{}",
        "list": '[1, "x"]',
        "none": "null",
        "on": "true",
    }
