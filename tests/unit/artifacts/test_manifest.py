from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible.artifacts import ArtifactRef, FileEntry, Manifest
from crucible.artifacts.manifest import canonical_json
from crucible.errors import ArtifactCorrupt, ArtifactNotFound, UserError

HEX = "ab" * 32

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\\\0"), min_size=1)
parts = names.filter(lambda name: name not in (".", ".."))
hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
values = st.one_of(st.text(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    paths = sorted(draw(st.sets(parts, max_size=5)))
    files = tuple(FileEntry(p, draw(hexes), draw(st.integers(0, 2**50))) for p in paths)
    return Manifest(
        type=draw(names),
        variant=draw(names),
        files=files,
        metadata=draw(st.dictionaries(st.text(), values, max_size=4)),
        producer=draw(st.dictionaries(st.text(), st.text(), max_size=3)),
        parents=tuple(f"sha256:{h}" for h in draw(st.lists(hexes, max_size=3))),
    )


def document(**changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "schema": "crucible.manifest/v1",
        "type": "Model",
        "variant": "causal-lm",
        "files": [{"path": "config.json", "sha256": HEX, "size_bytes": 3}],
        "metadata": {"loss": 1.5, "steps": 3, "name": "ä"},
        "producer": {"component": "train"},
        "parents": [f"sha256:{HEX}"],
    }
    return {**good, **changes}


@given(manifests())
def test_survives_json_with_the_same_digest(manifest: Manifest) -> None:
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest
    assert again.digest == manifest.digest


def test_the_digest_is_sha256_of_sorted_compact_utf8_json() -> None:
    expected = json.dumps(document(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = Manifest.from_json(json.dumps(document())).digest
    assert digest == "sha256:" + hashlib.sha256(expected.encode()).hexdigest()


def test_the_digest_is_pinned() -> None:
    # Digests name what users stored: a change of the byte form orphans every artifact.
    pinned = "3384743490b7b95c942c455076498d88da093806cc28de9691a7b61ff2a92045"
    assert Manifest.from_json(json.dumps(document())).digest == f"sha256:{pinned}"


def entry(**changes: Any) -> dict[str, Any]:
    return {"path": "a", "sha256": HEX, "size_bytes": 1, **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": "crucible.manifest/v2"}, "schema"),
        ({"type": ""}, "type"),
        ({"variant": 3}, "variant"),
        ({"surprise": 1}, "unknown keys ['surprise']"),
        ({"files": {}}, "files"),
        ({"files": [{"path": "a"}]}, "files[0]"),
        ({"files": [entry(path="/etc/passwd")]}, "must be relative"),
        ({"files": [entry(path="a/../../b")]}, "'..'"),
        ({"files": [entry(path="./a")]}, "'.'"),
        ({"files": [entry(path="a//b")]}, "empty part"),
        ({"files": [entry(path="a/")]}, "empty part"),
        ({"files": [entry(path="")]}, "non-empty"),
        ({"files": [entry(path="a\0b")]}, "NUL"),
        ({"files": [entry(path="a\\b")]}, "backslash"),
        ({"files": [entry(path=7)]}, "files[0].path"),
        ({"files": [entry(sha256="AB" * 32)]}, "files[0].sha256"),
        ({"files": [entry(sha256=HEX + "\n")]}, "files[0].sha256"),
        ({"files": [entry(size_bytes=-1)]}, "files[0].size_bytes"),
        ({"files": [entry(size_bytes=True)]}, "files[0].size_bytes"),
        ({"files": [entry(path="b"), entry(path="a")]}, "sorted and unique"),
        ({"files": [entry(path="a"), entry(path="a")]}, "sorted and unique"),
        ({"files": [entry(path="a"), entry(path="a/b")]}, "both a file and a folder"),
        ({"metadata": {"flag": True}}, "metadata.flag"),
        ({"metadata": {"list": [1]}}, "metadata.list"),
        ({"metadata": {"loss": float("nan")}}, "metadata.loss"),
        ({"metadata": {"name": "\ud800"}}, "metadata.name"),
        ({"producer": {"component": 1}}, "producer.component"),
        ({"producer": {"component": "\ud800"}}, "producer.component"),
        ({"parents": ["ab"]}, "parents[0]"),
    ],
)
def test_a_broken_rule_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        Manifest.from_json(json.dumps(document(**changes)))
    assert said in str(caught.value)
    assert caught.value.problems


def test_all_broken_rules_are_named_at_once() -> None:
    broken = document(type="", parents=["x"], metadata={"a": None})
    with pytest.raises(UserError) as caught:
        Manifest.from_json(json.dumps(broken))
    assert [problem.path for problem in caught.value.problems] == [
        "type",
        "metadata.a",
        "parents[0]",
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": 1}'])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="invalid artifact manifest"):
        Manifest.from_json(text)


def test_an_unknown_file_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ArtifactNotFound, match=r"weights.*config\.json"):
        Manifest.from_json(json.dumps(document())).file("weights")


def test_a_reference_survives_its_file(tmp_path: Path) -> None:
    ref = ArtifactRef.of(Manifest.from_json(json.dumps(document())), "file:///store")
    ref.write(tmp_path / "new" / "model")
    assert ArtifactRef.read(tmp_path / "new" / "model") == ref
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]


def _reference(**changes: Any) -> bytes:
    manifest = Manifest.from_json(json.dumps(document()))
    good = {"digest": manifest.digest, "store": "file:///s", "manifest": document()}
    return canonical_json({**good, **changes})


@pytest.mark.parametrize(
    "data",
    [
        b"not json",
        b"[]",
        b'{"digest": "sha256:00"}',
        _reference(digest=f"sha256:{HEX}"),
        _reference(store=3),
        _reference(manifest=document(type="Dataset")),
        _reference(manifest=document(type="")),
        _reference(more=1),
    ],
)
def test_a_wrong_reference_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(data)
    with pytest.raises(ArtifactCorrupt, match=str(tmp_path / "model")):
        ArtifactRef.read(tmp_path / "model")


def test_a_missing_reference_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match="model"):
        ArtifactRef.read(tmp_path / "model")
