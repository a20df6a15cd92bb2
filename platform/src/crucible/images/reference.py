"""Names of images: with a tag while they are here, with a digest once a registry has them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from crucible.errors import UserError

_NAME = re.compile(
    r"(?:[a-zA-Z0-9.-]+(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"  # host, then path
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
LOCAL_PREFIX = "localhost/crucible"


@dataclass(frozen=True)
class Reference:
    """``name:tag``, ``name@sha256:…``, or both."""

    name: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}{f'@{self.digest}' if self.digest else ''}"

    @property
    def by_digest(self) -> str:
        """``name@sha256:…``, as a context file wants it.

        Raises:
            UserError: the reference has no digest.
        """
        if self.digest is None:
            raise UserError(f"{self} has no digest. `platformctl images push` gives it one.")
        return f"{self.name}@{self.digest}"


def parse_reference(text: str) -> Reference:
    """What ``text`` names.

    Raises:
        UserError: it is no name of an image, or names one that may be another tomorrow.
    """
    rest, at, digest = text.partition("@")
    head, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        head, tag = rest, ""
    problem = None
    if not _NAME.fullmatch(head):
        problem = "is no name of an image"
    elif tag and not _TAG.fullmatch(tag):
        problem = f"has the tag {tag!r}, which is none"
    elif at and not _DIGEST.fullmatch(digest):
        problem = f"has the digest {digest!r}; one is `sha256:` and 64 hex digits"
    elif not at and tag in ("", "latest"):
        problem = "may be another image tomorrow: it has neither a digest nor a tag but `latest`"
    if problem:
        raise UserError(f"{text!r} {problem}. Write name:tag or name@sha256:DIGEST.")
    return Reference(head, tag or None, digest or None)


def local_reference(set_name: str, tag: str) -> Reference:
    """What an image is called on this machine."""
    return parse_reference(f"{LOCAL_PREFIX}/{set_name}:{tag}")


def remote_reference(registry: str, set_name: str, tag: str) -> Reference:
    """What an image is called in a registry, e.g. ``registry.example.com/team/train:1.0``."""
    return parse_reference(f"{registry.rstrip('/')}/{set_name}:{tag}")
