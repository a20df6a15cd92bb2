"""The checkout that images are built from, and what of it they depend on."""

from __future__ import annotations

import hashlib
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crucible.errors import UserError

CONTAINERFILE = "components/images/Containerfile"
DISTRIBUTION = "crucible-platform"
_SOURCES = ("pyproject.toml", "README.md", ".dockerignore", CONTAINERFILE)
_SOURCE_DIRS = ("platform/src", "components/src", "components/images/tools")
_NOT_SOURCES = {"__pycache__"}


@dataclass(frozen=True)
class Checkout:
    """A folder with this project's source. Found with `find_checkout`."""

    root: Path

    @property
    def containerfile(self) -> Path:
        return self.root / CONTAINERFILE

    def lock(self, set_name: str) -> Path:
        """The requirement file of an image; of what builds them, if ``set_name`` is ``tools``."""
        return self.root / "components" / "images" / set_name / "requirements.txt"

    @property
    def version(self) -> str:
        project = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["version"])

    @property
    def revision(self) -> str:
        """The last commit that changed what images are made of, so that others change no image.

        With ``-dirty`` if such files differ from it; ``unknown`` where git knows none.
        """
        paths = (*_SOURCES, *_SOURCE_DIRS, "components/images")
        commit = self._git("log", "-1", "--format=%H", "--", *paths)
        if not commit:
            return "unknown"
        return f"{commit}-dirty" if self._git("status", "--porcelain", "--", *paths) else commit

    def inputs_digest(self, set_name: str) -> str:
        """Hex SHA-256 over every file that the image depends on: content and path."""
        digest = hashlib.sha256(f"{set_name}\0".encode())
        for path in sorted(self._inputs(set_name)):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(self.root)}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()

    def _inputs(self, set_name: str) -> Iterator[Path]:
        yield from (self.root / name for name in _SOURCES)
        folders = {*_SOURCE_DIRS, "components/images/base", f"components/images/{set_name}"}
        for folder in folders:
            for path in (self.root / folder).rglob("*"):
                if path.is_file() and not _NOT_SOURCES & set(path.parts):
                    yield path

    def _git(self, *arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(self.root), *arguments], capture_output=True, text=True
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None


def find_checkout(start: Path) -> Checkout:
    """The checkout that ``start`` is in.

    Raises:
        UserError: it is in none.
    """
    for folder in (start, *start.parents):
        if (folder / CONTAINERFILE).is_file() and _is_ours(folder / "pyproject.toml"):
            return Checkout(folder)
    raise UserError(
        f"{start} is in no checkout of Crucible, and images are built from one. Clone the "
        "repository and run this command in it."
    )


def _is_ours(project_file: Path) -> bool:
    return project_file.is_file() and f'"{DISTRIBUTION}"' in project_file.read_text("utf-8")
