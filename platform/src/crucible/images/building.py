"""From a checkout to images on this machine, and from there to a registry."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crucible.errors import UserError
from crucible.images.builder import Build, Builder
from crucible.images.checkout import Checkout
from crucible.images.index import index_secrets
from crucible.images.record import Pushed, add_to_record
from crucible.images.reference import Reference, local_reference, parse_reference, remote_reference

BASE_IMAGE = "docker.io/library/python:3.11-slim-bookworm"
"""As in the Containerfile."""
REVISION_LABEL = "org.opencontainers.image.revision"
INPUTS_LABEL = "dev.crucible.inputs"
"""Digest of all files that an image was built from."""
_SHORT_COMMIT_CHARS = 12


@dataclass(frozen=True)
class BuiltImage:
    """An image of this machine."""

    set_name: str
    reference: Reference
    sbom_path: Path
    """Its bill of materials; the image has the same under ``/usr/share/sbom``."""


def default_tag(checkout: Checkout) -> str:
    """``VERSION-COMMIT``, so that a tag names one source; ``-dirty`` if that was changed."""
    commit, _, dirty = checkout.revision.partition("-")
    short = commit[:_SHORT_COMMIT_CHARS]
    return f"{checkout.version}-{short}" + (f"-{dirty}" if dirty else "")


def build_image(
    set_name: str,
    checkout: Checkout,
    builder: Builder,
    *,
    tag: str,
    base_image: str | None = None,
    sbom_dir: Path,
    options: Sequence[str] = (),
) -> BuiltImage:
    """Build the image of one set of dependencies.

    Args:
        set_name: one of the sets.
        checkout: what it is built from.
        builder: by which program.
        tag: what it is called, after ``localhost/crucible/SET``.
        base_image: name of a Debian with Python 3.11; the Containerfile's own if None.
        sbom_dir: gets ``SET.cdx.json``.
        options: more of the builder's own options.

    Raises:
        UserError: not the name of a base image, or of a tag.
        ImageError: the build failed.
        TemporaryError: the build failed on the network.
    """
    reference = local_reference(set_name, tag)
    arguments = {
        "IMAGE_SET": set_name,
        "VERSION": checkout.version,
        "REVISION": checkout.revision,
        "INPUTS": f"sha256:{checkout.inputs_digest(set_name)}",
    }
    if base_image is not None:
        arguments["BASE_IMAGE"] = str(parse_reference(base_image))
    with index_secrets(os.environ) as secrets:
        builder.build(
            Build(
                containerfile=checkout.containerfile,
                context_dir=checkout.root,
                name=str(reference),
                arguments=arguments,
                secrets=secrets,
                options=options,
            )
        )
    sbom_dir.mkdir(parents=True, exist_ok=True)
    sbom_path = sbom_dir / f"{set_name}.cdx.json"
    sbom_path.write_text(builder.read_file(str(reference), f"/usr/share/sbom/{sbom_path.name}"))
    return BuiltImage(set_name, reference, sbom_path)


def push_image(
    set_name: str, builder: Builder, *, tag: str, registry: str, home_dir: Path
) -> Reference:
    """Copy a built image into a registry and note its digest; returns its name there.

    Raises:
        UserError: the image is not here.
        ImageError: the registry refused it.
        TemporaryError: the registry did not answer.
    """
    source = str(local_reference(set_name, tag))
    destination = remote_reference(registry, set_name, tag)
    if not builder.has(source):
        raise UserError(
            f"{builder.name} has no image {source}. Build it with `platformctl images build "
            f"{set_name} --tag {tag}`, or name the tag that you built with --tag."
        )
    digest = builder.push(source, str(destination))
    pushed = Reference(destination.name, destination.tag, digest)
    revision, inputs = (builder.label(source, label) for label in (REVISION_LABEL, INPUTS_LABEL))
    add_to_record(home_dir, Pushed(set_name, str(pushed), revision, inputs))
    return pushed
