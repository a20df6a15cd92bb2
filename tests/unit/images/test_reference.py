from __future__ import annotations

import pytest

from crucible.errors import UserError
from crucible.images.reference import Reference, parse_reference, remote_reference

DIGEST = f"sha256:{'0f' * 32}"


@pytest.mark.parametrize(
    ("text", "name", "tag", "digest"),
    [
        ("python:3.11-slim", "python", "3.11-slim", None),
        ("localhost:5000/a/b:1", "localhost:5000/a/b", "1", None),
        (f"localhost:5000/a@{DIGEST}", "localhost:5000/a", None, DIGEST),
        (f"r.example.com/a_b/c.d:1@{DIGEST}", "r.example.com/a_b/c.d", "1", DIGEST),
    ],
)
def test_parts_and_back(text: str, name: str, tag: str | None, digest: str | None) -> None:
    found = parse_reference(text)
    assert found == Reference(name, tag, digest)
    assert str(found) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("python", "another image tomorrow"),
        ("python:latest", "another image tomorrow"),
        ("localhost:5000/python", "another image tomorrow"),
        ("Python:3", "no name of an image"),
        ("", "no name of an image"),
        ("a b:1", "no name of an image"),
        ("a:-1", "has the tag"),
        ("a@sha256:12", "64 hex digits"),
        ("a:1@", "64 hex digits"),
        ("a@sha512:" + "0" * 128, "64 hex digits"),
    ],
)
def test_what_names_no_fixed_image_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse_reference(text)


def test_a_context_gets_name_and_digest() -> None:
    assert Reference("r/a", "1", DIGEST).by_digest == f"r/a@{DIGEST}"
    with pytest.raises(UserError, match="platformctl images push"):
        _ = Reference("r/a", "1").by_digest


def test_a_registry_may_end_in_a_slash() -> None:
    assert (
        str(remote_reference("r.example.com/team/", "train", "1")) == "r.example.com/team/train:1"
    )
