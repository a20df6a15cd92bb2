"""Every value knows its line and column; everything odd about a file is a clean error."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible.errors import UserError
from crucible.specs.document import (
    MAX_FILE_BYTES,
    Document,
    child_path,
    parent_path,
    parse_document,
    parse_value,
    read_document,
)


def test_keys_and_values_know_their_place() -> None:
    document = parse_document("a:\n  b: [1, 2]\n  c: {d: x}\n", "f.yaml")
    assert document.value == {"a": {"b": [1, 2], "c": {"d": "x"}}}
    assert document.key_places["a.b"] == (2, 3)
    assert document.value_places["a.b[1]"] == (2, 10)
    assert document.value_places["a.c.d"] == (3, 10)


def test_a_problem_at_a_missing_key_points_at_its_parent() -> None:
    document = parse_document("a:\n  b: 1\n", "f.yaml")
    problem = document.problem("a.c.d", "is required.")
    assert str(problem) == "f.yaml:1:1: a.c.d: is required."
    assert document.problem("z", "is required.").line == 1


@pytest.mark.parametrize(("path", "parent"), [("a.b", "a"), ("a.b[0]", "a.b"), ("a", "")])
def test_parent_path(path: str, parent: str) -> None:
    assert parent_path(path) == parent


# Numbers as YAML 1.2 has them and PyYAML, which writes them without quotes, has not.
NUMBER = re.compile(r"[-+]?\d+[eE][-+]?\d+")
TEXT = st.text(max_size=5).filter(lambda text: not NUMBER.fullmatch(text))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("abc<.$", min_size=1, max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


def paths_of(value: object, path: str = "") -> set[str]:
    found = {path}
    if isinstance(value, dict):
        for key, item in value.items():
            found |= paths_of(item, child_path(path, key))
    if isinstance(value, list):
        for index, item in enumerate(value):
            found |= paths_of(item, child_path(path, index))
    return found


@settings(deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1), JSON, min_size=1), st.booleans())
def test_what_pyyaml_writes_is_read_and_placed(value: dict[str, object], flow: bool) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow, default_style='"')
    text = yaml.safe_dump(value, default_flow_style=flow) if "!!" in text else text
    document = parse_document(text, "f")
    if not document.problems:  # "<<" is a merge key when it is not quoted
        assert document.value == yaml.safe_load(text)
        assert paths_of(document.value) <= document.value_places.keys()
    lines = text.split("\n")
    for line, column in document.value_places.values():
        assert 1 <= line <= len(lines)
        assert 1 <= column <= len(lines[line - 1]) + 1


def test_a_duplicate_key_names_both_lines_and_keeps_the_first() -> None:
    document = parse_document("a: 1\nb: 2\na: 3\n", "f.yaml")
    assert document.value == {"a": 1, "b": 2}
    assert list(map(str, document.problems)) == [
        "f.yaml:3:1: a: is there already, in line 1. Remove one."
    ]


def test_merge_keys_and_aliases_mean_what_yaml_says() -> None:
    text = (
        "base: &base {x: 1, y: {z: 2}}\n"
        "other: &other {x: 5, w: 6}\n"
        "one: {<<: *base, x: 3}\n"
        "two: {<<: [*base, *other]}\n"
        "again: *base\n"
    )
    document = parse_document(text, "f")
    assert not document.problems
    assert document.value == yaml.safe_load(text)
    assert document.key_places["one.x"] == (3, 18)
    assert document.key_places["one.y"] == (1, 20)


def test_a_quoted_merge_key_is_a_key() -> None:
    assert parse_document('a: {"<<": 1}', "f").value == {"a": {"<<": 1}}


def test_merging_a_scalar_is_a_problem() -> None:
    [problem] = parse_document("a: &a 1\nb: {<<: *a}\n", "f").problems
    assert "merges what is no mapping" in str(problem)


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 30)
)


@pytest.mark.parametrize(
    "text",
    [BOMB, MERGE_BOMB, "a: &a [*a]", "a: &a {b: *a}", "a: &a\n  <<: *a\n", "a: &a [*a, *a]"],
    ids=["bomb", "merge bomb", "list in itself", "map in itself", "merged in itself", "tree"],
)
def test_aliases_that_explode_are_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_document(text, "f.yaml")
    [problem] = caught.value.problems
    assert "aliases" in problem.message
    assert len(problem.path) < 80


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("---\n", "is empty"),
        ("- a\n", "no keys"),
        ("just words\n", "no keys"),
    ],
)
def test_a_file_without_keys_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_document(text, "f.yaml")
    assert words in str(caught.value.problems[0])
    assert caught.value.problems[0].line == 1


def test_keys_that_are_no_words_are_problems() -> None:
    document = parse_document("a: 1\n? [b]\n: 2\n1: x\nnull: y\n", "f.yaml")
    assert document.value == {"a": 1, "1": "x", "null": "y"}
    assert [problem.line for problem in document.problems] == [2]


def test_an_unsupported_tag_on_a_mapping_is_a_problem() -> None:
    document = parse_document("a: !secret {b: 1}\nc: !!map {d: 1}\n", "f.yaml")
    assert [problem.path for problem in document.problems] == ["a"]


def test_a_byte_order_mark_is_not_content(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(path).value == {"a": 1}


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_document(path)
    assert "problem" in str(caught.value)
    return str(caught.value.problems[0])


def test_bytes_that_are_not_utf8_have_a_place(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"a: 1\nb: caf\xe9\n")
    assert refused(path) == f"{path}:2:7: byte 0xe9 is not UTF-8. Save it as UTF-8."


def test_utf16_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes("a: 1\n".encode("utf-16"))
    assert "UTF-8" in refused(path)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"a: 1\n" * (2 * MAX_FILE_BYTES))
    assert "larger than 1 MiB" in refused(path)


@pytest.mark.parametrize("name", ["missing.yaml", ".", "a\0b"])
def test_a_path_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    assert "cannot be read" in refused(tmp_path / name)


def test_a_list_of_many_values_is_refused() -> None:
    with pytest.raises(UserError, match="problem") as caught:
        parse_document("a: [" + "x," * 150_000 + "]", "f")
    assert "100000 values" in str(caught.value.problems[0])


def test_parse_value_reads_one_value() -> None:
    assert parse_value("[1, a]", "--set") == [1, "a"]
    assert parse_value("", "--set") is None
    with pytest.raises(UserError):
        parse_value("[1", "--set")
    with pytest.raises(UserError):
        parse_value(".nan", "--set")


def test_a_document_without_places_points_at_its_start() -> None:
    assert Document("f").problem("a.b", "x").line == 1
