"""Verbs on container images: build, push, digest."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crucible.cli.output import Json, duration, print_json

if TYPE_CHECKING:
    from crucible.images.builder import Builder
    from crucible.images.reference import Reference

app = typer.Typer(
    help="Container images of the steps, one for each set of dependencies.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class ImageSet(StrEnum):
    """The sets of dependencies; what a component declares as its image."""

    BASE = "base"
    CLUSTER = "cluster"
    TRAIN = "train"
    EVAL = "eval"
    SERVE = "serve"


class BuilderName(StrEnum):
    """Programs that build images."""

    BUILDAH = "buildah"
    PODMAN = "podman"
    DOCKER = "docker"


Sets = Annotated[list[ImageSet] | None, typer.Argument(metavar="[SET]...", help="Default: all.")]
Tag = Annotated[
    str | None, typer.Option("--tag", help="Default: version and commit of the checkout.")
]
BuilderChoice = Annotated[
    BuilderName | None, typer.Option("--builder", help="Default: the first that is installed.")
]


@app.command()
def build(
    sets: Sets = None,
    base_image: Annotated[
        str | None,
        typer.Option("--base-image", help="A Debian with Python 3.11. Default: Docker's slim one."),
    ] = None,
    tag: Tag = None,
    push: Annotated[
        str | None, typer.Option("--push", metavar="REGISTRY", help="Push each image once built.")
    ] = None,
    builder: BuilderChoice = None,
    json: Json = False,
) -> None:
    """Build images from the checkout in which this runs, each with its bill of materials."""
    from crucible.images.building import build_image, default_tag
    from crucible.images.checkout import find_checkout
    from crucible.settings import Settings

    checkout, home_dir = find_checkout(Path.cwd()), Settings.load().home_dir
    chosen = _builder(builder, json=json)
    tag = tag or default_tag(checkout)
    results = []
    for set_name in _names(sets):
        started_at = time.time()
        typer.echo(f"{set_name}: building with {chosen.name}", err=True)
        built = build_image(
            set_name,
            checkout,
            chosen,
            tag=tag,
            base_image=base_image,
            sbom_dir=home_dir / "images",
        )
        typer.echo(f"{set_name}: built in {duration(started_at, time.time())}", err=True)
        pushed = _push(set_name, chosen, tag, push, home_dir) if push else None
        results.append(
            {
                "set": set_name,
                "image": str(built.reference),
                "sbom": str(built.sbom_path),
                "pushed": pushed and str(pushed),
            }
        )
        if not json:
            typer.echo(f"{pushed or built.reference}\n  materials {built.sbom_path}")
    if json:
        print_json(results)


@app.command()
def push(
    registry: Annotated[
        str, typer.Argument(metavar="REGISTRY", help="E.g. registry.example.com/crucible.")
    ],
    sets: Sets = None,
    tag: Tag = None,
    builder: BuilderChoice = None,
    json: Json = False,
) -> None:
    """Push built images to REGISTRY/SET:TAG, with the login that the builder has."""
    from crucible.images.building import default_tag
    from crucible.images.checkout import find_checkout
    from crucible.settings import Settings

    home_dir, chosen = Settings.load().home_dir, _builder(builder, json=json)
    tag = tag or default_tag(find_checkout(Path.cwd()))
    results = []
    for set_name in _names(sets):
        pushed = _push(set_name, chosen, tag, registry, home_dir)
        results.append({"set": set_name, "pushed": str(pushed)})
        if not json:
            typer.echo(str(pushed))
    if json:
        print_json(results)


@app.command()
def digest(sets: Sets = None, json: Json = False) -> None:
    """Print the images pushed last, by digest, as the `images:` of a context file."""
    from crucible.errors import UserError
    from crucible.images.record import read_record
    from crucible.settings import Settings

    record = read_record(Settings.load().home_dir)
    wanted = [str(name) for name in sets] if sets else [n for n in _names(None) if n in record]
    absent = [name for name in wanted if name not in record]
    if absent or not wanted:
        raise UserError(
            f"{', '.join(absent) or 'no image'}: not pushed from here, and a digest is given by a "
            "registry. Push with `platformctl images push REGISTRY`."
        )
    images = {name: record[name].parsed.by_digest for name in wanted}
    for name in wanted:
        _warn_if_stale(name, record[name].inputs_digest)
    if json:
        print_json(images)
        return
    typer.echo("images:")
    for name, reference in images.items():
        typer.echo(f"  {name}: {reference}")


def _names(sets: list[ImageSet] | None) -> list[str]:
    return [str(name) for name in dict.fromkeys(sets or ImageSet)]


def _builder(wanted: BuilderName | None, *, json: bool) -> Builder:
    from crucible.images.builder import find_builder

    return find_builder(wanted.value if wanted else None, quiet=json)


def _push(set_name: str, builder: Builder, tag: str, registry: str, home_dir: Path) -> Reference:
    from crucible.images.building import push_image

    typer.echo(f"{set_name}: pushing to {registry}", err=True)
    return push_image(set_name, builder, tag=tag, registry=registry, home_dir=home_dir)


def _warn_if_stale(set_name: str, inputs_digest: str) -> None:
    """Where this runs in a checkout, say if it holds other files than the image was built from."""
    from crucible.errors import UserError
    from crucible.images.checkout import find_checkout

    try:
        checkout = find_checkout(Path.cwd())
    except UserError:
        return
    if f"sha256:{checkout.inputs_digest(set_name)}" != inputs_digest:
        typer.echo(f"note: {set_name} was built from other files than are here now", err=True)
