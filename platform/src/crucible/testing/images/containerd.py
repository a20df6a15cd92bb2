"""Images into a containerd before it starts: by links, in a second instead of a minute.

A first import unpacks gigabytes. It is done once, into a folder of the cache, by a containerd that
runs for nothing else; what it leaves is linked into the root of any other. That is safe, since
containerd changes neither blobs nor layers that are complete; its two databases are copied.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from crucible.testing.images.builds import ImageArchive, cache_dir

_NAMESPACE = "k8s.io"
_DATABASES = (
    Path("io.containerd.metadata.v1.bolt/meta.db"),
    Path("io.containerd.snapshotter.v1.overlayfs/metadata.db"),
)
_START_SECONDS = 30.0
_NUM_KEPT = 2


def seed_containerd(root: Path, images: Sequence[ImageArchive]) -> None:
    """Put images, by tag and by digest, into the root of a containerd that has not started yet.

    Args:
        root: its ``root``; made, and empty if it exists. Best on the file system of the cache.
        images: for the namespace ``k8s.io`` and the snapshotter ``overlayfs``.

    Raises:
        RuntimeError: containerd refused an image.
    """
    names = sorted(f"{image.reference} {image.digest}" for image in images)
    name = hashlib.sha256("\n".join([_version(), *names]).encode()).hexdigest()[:32]
    folder = cache_dir() / "containerd"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        template = folder / name
        if not template.exists():
            _import(images, template)
        template.touch()
        root.mkdir(parents=True, exist_ok=True)
        _link(template, root)
        _remove_old(folder)


def _link(template: Path, root: Path) -> None:
    same_file_system = template.stat().st_dev == root.stat().st_dev
    flags = "-al" if same_file_system else "-a"
    subprocess.run(["cp", flags, f"{template}/.", str(root)], check=True)
    for database in _DATABASES:
        (root / database).unlink()
        shutil.copy2(template / database, root / database)


def _import(images: Sequence[ImageArchive], template: Path) -> None:
    """Begins with the last template, since most layers outlive a change of our code."""
    draft = template.with_name(f"{template.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    for last in _templates(template.parent)[:1]:
        _link(last, draft)
    wanted = {name for image in images for name in (image.reference, image.by_digest)}
    with running_containerd(draft) as ctr:
        for image in images:
            ctr("images", "import", str(image.archive_path))
            ctr("images", "tag", "--force", image.reference, image.by_digest)
        unwanted = set(ctr("images", "ls", "--quiet").split()) - wanted
        if unwanted:
            ctr("images", "rm", "--sync", *sorted(unwanted))
    draft.rename(template)


@contextlib.contextmanager
def running_containerd(root: Path) -> Iterator[Callable[..., str]]:
    """A containerd without a kubelet's side; yields ``ctr``, which returns what it prints."""
    with tempfile.TemporaryDirectory(prefix="crucible-containerd-") as folder:
        socket, config, log = (Path(folder) / name for name in ("socket", "config.toml", "log"))
        config.write_text(
            f"version = 2\nroot = {json.dumps(str(root))}\n"
            f"state = {json.dumps(f'{folder}/state')}\n"
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f"[grpc]\naddress = {json.dumps(str(socket))}\n"
        )
        ctr = functools.partial(_run, "ctr", "--address", str(socket), "--namespace", _NAMESPACE)
        command = ["containerd", "--config", str(config)]
        with (
            log.open("wb") as output,
            subprocess.Popen(command, stdout=output, stderr=output) as process,
        ):
            try:
                _wait(ctr, log)
                yield ctr
            finally:
                process.terminate()


def _wait(ctr: Callable[..., str], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            ctr("version")
            return
        except RuntimeError as error:
            if time.monotonic() > deadline:
                said = log.read_text()[-2000:]
                raise RuntimeError(f"containerd did not start:\n{said}") from error
            time.sleep(0.1)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def _version() -> str:
    return subprocess.check_output(["containerd", "--version"], text=True)


def _templates(folder: Path) -> list[Path]:
    """Complete ones, the one used last first."""
    templates = [path for path in folder.iterdir() if path.is_dir() and path.suffix != ".new"]
    return sorted(templates, key=lambda path: path.stat().st_mtime, reverse=True)


def _remove_old(folder: Path) -> None:
    for template in _templates(folder)[_NUM_KEPT:]:
        shutil.rmtree(template)
