"""Users' files and folders: what they contain, as planning and importing see it."""

from __future__ import annotations

import hashlib
import io
import stat
from collections.abc import Iterator
from pathlib import Path

from crucible.artifacts.files import walk_files
from crucible.artifacts.manifest import FileEntry, canonical_json, path_problem
from crucible.errors import Problem, UserError


def tree_files(path: Path) -> dict[str, Path]:
    """Regular files by the relative POSIX path they get in an artifact, sorted.

    A single file gets its own name. Links to files are followed (a hub's snapshot folders are made
    of them); links to folders are refused, as are sockets and devices.

    Raises:
        UserError: no such path, no file in it, or something in it cannot be stored; lists all.
    """
    if path.is_file():
        found = {path.name: path}
    elif path.is_dir():
        found = {file.relative_to(path).as_posix(): file for file in _files_under(path)}
    else:
        raise UserError(f"{path}: no such file or folder. Check the path.")
    problems = [problem for name, file in found.items() if (problem := _problem(name, file))]
    if problems:
        listed = "; ".join(map(str, problems))
        raise UserError(f"{path}: cannot be stored as an artifact: {listed}", problems)
    if not found:
        raise UserError(f"{path}: holds no file. An artifact has at least one.")
    return dict(sorted(found.items()))


def tree_digest(path: Path) -> str:
    """``sha256:<hex>`` over the names and bytes of a file or folder, nothing else.

    Equal to the digest of the listing that `Store.put_tree` would make.
    """
    entries = []
    for name, file in tree_files(path).items():
        with open_users_file(file) as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            entries.append(FileEntry(name, sha256, stream.tell()))
    return listing_digest(entries)


def open_users_file(file: Path) -> io.BufferedReader:
    """The file opened for reading.

    Raises:
        UserError: it cannot be.
    """
    try:
        return file.open("rb")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}. Check its mode.") from error


def listing_digest(entries: list[FileEntry] | tuple[FileEntry, ...]) -> str:
    """``sha256:<hex>`` over paths, digests and sizes."""
    listing = [[entry.path, entry.sha256, entry.size_bytes] for entry in entries]
    return "sha256:" + hashlib.sha256(canonical_json(listing)).hexdigest()


def _files_under(folder: Path) -> Iterator[Path]:
    try:
        yield from walk_files(folder)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be listed: {error.strerror}.") from error


def _problem(name: str, file: Path) -> Problem | None:
    if rule := path_problem(name):
        return Problem(name, f"name {rule}", "Rename it.")
    try:
        mode = file.stat().st_mode
    except OSError as error:
        return Problem(name, str(error.strerror), "Remove or repair the link.")
    if stat.S_ISDIR(mode):
        return Problem(name, "link to a folder", "Copy the folder there instead.")
    if not stat.S_ISREG(mode):
        return Problem(name, "neither file nor folder", "Remove it.")
    return None
