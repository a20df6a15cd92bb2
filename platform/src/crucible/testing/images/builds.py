"""`built_image`: a set's image as an archive, in a cache named by all that it is built from.

Images are kept in a container storage of our own below the cache folder, so that nothing is mixed
with the user's images and layers with torch outlive a change of our code. Of each set the last
image is kept; those before it go, with what no other image shares.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crucible.images.builder import LAYER_TIME, Builder, find_builder
from crucible.images.building import build_image
from crucible.images.checkout import Checkout, find_checkout
from crucible.testing.cluster.go_programs import cache_home
from crucible.testing.images.machine import BASE_IMAGE_VARIABLE, check_machine

logger = logging.getLogger(__name__)

_ARCHIVE, _INFO = "image.tar", "image.json"
_FORM = 1
"""Raised when archives are made in another way from the same files."""
_DEBIAN = (
    "mmdebstrap",
    "--variant=minbase",
    "--include=python3,python3-venv,ca-certificates",
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")),
    "--quiet",
    "bookworm",
)
_BASE_CONTAINERFILE = 'FROM scratch\nADD base.tar /\nCMD ["python3"]\n'


@dataclass(frozen=True)
class ImageArchive:
    """An image in a file that ``ctr images import`` and ``podman load`` take."""

    set_name: str
    archive_path: Path
    """An OCI archive; layers are packed with zstd, which is quicker than gzip both ways."""
    reference: str
    """Name and tag in the archive: ``localhost/crucible/SET:…``, another for other files."""
    digest: str
    """``sha256:…`` of its manifest. containerd has the image under the same."""
    sbom_path: Path

    @property
    def by_digest(self) -> str:
        """``name@sha256:…``, as a context file wants it."""
        return f"{self.reference.rpartition(':')[0]}@{self.digest}"


def cache_dir() -> Path:
    """``${XDG_CACHE_HOME:-~/.cache}/crucible/images``."""
    return cache_home() / "images"


def storage_options() -> tuple[str, ...]:
    """Options of buildah and podman for the storage that holds what `built_image` built."""
    storage = cache_dir() / "storage"
    return ("--root", str(storage), "--runroot", "/run/crucible-images")


def built_image(set_name: str, *, checkout: Checkout | None = None) -> ImageArchive:
    """The image of a set, built from the checkout as it is now unless that was done before.

    Takes minutes the first time. Processes that want images at the same time wait for each other.

    Args:
        set_name: ``base``, ``cluster``, ``train``, ``eval`` or ``serve``.
        checkout: what to build from; the checkout that this file is in if None.

    Raises:
        MachineUnfit: images cannot be built here.
        ImageError: the build failed.
    """
    check_machine()
    source = checkout or find_checkout(Path(__file__).resolve())
    with _locked():
        inputs = f"{source.inputs_digest(set_name)}\n{source.revision}"  # a label of the image
        recipe = f"{_FORM}\n{_base_recipe()}\n{inputs}"
        folder = cache_dir() / set_name / hashlib.sha256(recipe.encode()).hexdigest()[:32]
        if not (folder / _INFO).exists():
            _build(set_name, source, folder)
        info = json.loads((folder / _INFO).read_text())
    return ImageArchive(
        set_name,
        folder / _ARCHIVE,
        info["reference"],
        info["digest"],
        folder / f"{set_name}.cdx.json",
    )


def _build(set_name: str, source: Checkout, folder: Path) -> None:
    started_at = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    builder = own_builder()
    built = build_image(
        set_name,
        source,
        builder,
        tag=folder.name,
        base_image=os.environ.get(BASE_IMAGE_VARIABLE) or local_base(builder),
        sbom_dir=folder,
        options=shared_downloads(),
    )
    reference = str(built.reference)
    target = f"oci-archive:{folder / _ARCHIVE}:{reference}"
    packing = ("--compression-format", "zstd", "--compression-level", "1")
    builder.run(f"write {folder / _ARCHIVE}", "push", "--quiet", *packing, reference, target)
    _remove_others(set_name, builder, folder)
    info = {"reference": reference, "digest": _manifest_digest(folder / _ARCHIVE)}
    (folder / f"{_INFO}.new").write_text(json.dumps(info))
    (folder / f"{_INFO}.new").replace(folder / _INFO)
    logger.info("built the image %s in %.0f s", set_name, time.monotonic() - started_at)


def own_builder() -> Builder:
    """Builds into our own storage, without a container runtime around each step."""
    environ = {"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(_temporary_dir())}
    program = find_builder("buildah").program
    return Builder("buildah", program, storage_options(), environ, quiet=True)


def _base_recipe() -> str:
    return os.environ.get(BASE_IMAGE_VARIABLE) or f"{_DEBIAN} {_BASE_CONTAINERFILE}"


def local_base(builder: Builder) -> str:
    """A small Debian with Python, made once: no registry is needed."""
    tag = hashlib.sha256(_base_recipe().encode()).hexdigest()[:16]
    name = f"localhost/crucible-test/debian-python:{tag}"
    if builder.has(name):
        return name
    folder = _temporary_dir() / "base"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    environ = os.environ | {"SOURCE_DATE_EPOCH": str(LAYER_TIME)}
    made = subprocess.run(
        [*_DEBIAN, str(folder / "base.tar")], env=environ, capture_output=True, text=True
    )
    if made.returncode != 0:
        raise RuntimeError(f"mmdebstrap failed:\n{made.stderr[-2000:]}")
    (folder / "Containerfile").write_text(_BASE_CONTAINERFILE)
    options = ("--layers", "--timestamp", str(LAYER_TIME), "--tag", name)
    builder.run(f"build {name}", "build", *options, str(folder))
    shutil.rmtree(folder)
    return name


def shared_downloads() -> tuple[str, ...]:
    """Let the build have what uv has already downloaded for the environment of the checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("UV_CACHE_DIR") or Path(base) / "uv")
    cache.mkdir(parents=True, exist_ok=True)
    return ("--volume", f"{cache}:/build-cache/uv")


def _temporary_dir() -> Path:
    """Cache mounts of buildah stand where temporary files do; /tmp may be small or short-lived."""
    folder = cache_dir() / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _remove_others(set_name: str, builder: Builder, current: Path) -> None:
    for folder in (cache_dir() / set_name).iterdir():
        if folder != current:
            name = f"localhost/crucible/{set_name}:{folder.name}"
            if builder.has(name):
                builder.run(f"remove {name}", "rmi", name)
            shutil.rmtree(folder)
    builder.run("remove what no image names", "rmi", "--prune")


def _manifest_digest(archive: Path) -> str:
    with tarfile.open(archive) as tar:
        index = tar.extractfile("index.json")
        assert index is not None
        (entry,) = json.load(index)["manifests"]
    return str(entry["digest"])


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
