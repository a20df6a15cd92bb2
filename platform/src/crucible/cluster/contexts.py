"""The contexts of this user: files in ``~/.config/crucible/contexts``, and which one is current.

``local`` is built in and means this machine. ``CRUCIBLE_CONTEXT`` wins over what `use_context`
chose, so that a script can name a cluster without changing it for everybody else.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crucible.errors import UserError
from crucible.sdk.suggestion import did_you_mean
from crucible.settings import CONTEXT_VARIABLE, LOCAL_CONTEXT, Settings, config_dir
from crucible.specs.context import ContextDocument, load_context
from crucible.specs.model import LABEL

_NAME = re.compile(LABEL)


@dataclass(frozen=True)
class ContextEntry:
    """One context that can be chosen."""

    name: str
    path: Path | None
    """Its file; None for the built-in one."""
    is_current: bool


def list_contexts(environ: Mapping[str, str] | None = None) -> list[ContextEntry]:
    """All contexts, ``local`` first; the files are not read."""
    env = _environ(environ)
    current = Settings.load(env).context or LOCAL_CONTEXT
    folder = _folder(env)
    found = sorted(folder.glob("*.yaml")) if folder is not None else []
    entries = [ContextEntry(LOCAL_CONTEXT, None, current == LOCAL_CONTEXT)]
    return entries + [ContextEntry(path.stem, path, path.stem == current) for path in found]


def load(name: str | None, environ: Mapping[str, str] | None = None) -> ContextDocument:
    """The context of that name.

    Raises:
        UserError: there is none, it is this machine (None is, too), or its file has mistakes.
    """
    env = _environ(environ)
    if name is None or name == LOCAL_CONTEXT:
        others = [entry.name for entry in list_contexts(env) if entry.path is not None]
        raise UserError(
            f"{LOCAL_CONTEXT!r} is this machine, and this needs a cluster. Choose one with "
            f"`platformctl context use NAME` or {CONTEXT_VARIABLE}. "
            + (f"There are {', '.join(others)}." if others else _how_to_add())
        )
    path = _path(name, env)
    document = load_context(path)
    if document.metadata.name != name:
        raise UserError(
            f"{path}: metadata.name is {document.metadata.name!r}, and the file stands for the "
            f"context {name!r}. Make them equal."
        )
    return document


def load_current(settings: Settings, environ: Mapping[str, str] | None = None) -> ContextDocument:
    """The context of ``settings``; errors as in `load`."""
    return load(settings.context, environ)


def add_context(
    file: Path, *, replace: bool = False, environ: Mapping[str, str] | None = None
) -> ContextEntry:
    """Check a context file and keep a copy of it under the name that it gives.

    Raises:
        UserError: it has mistakes, or there is one of that name and ``replace`` is not set.
    """
    env = _environ(environ)
    name = load_context(file).metadata.name
    folder = _folder(env)
    if folder is None:
        raise UserError("neither XDG_CONFIG_HOME nor HOME is set: there is no place for contexts.")
    path = folder / f"{name}.yaml"
    if path.exists() and not replace:
        raise UserError(f"there is a context {name!r} already, {path}. --replace replaces it.")
    _write(path, file.read_bytes())
    return ContextEntry(name, path, Settings.load(env).context == name)


def use_context(name: str, environ: Mapping[str, str] | None = None) -> None:
    """Make ``name`` the current context of this user.

    Raises:
        UserError: there is none of that name, or its file has mistakes.
    """
    env = _environ(environ)
    if name != LOCAL_CONTEXT:
        load(name, env)
    folder = config_dir(env)
    if folder is None:
        raise UserError(f"neither XDG_CONFIG_HOME nor HOME is set. Set {CONTEXT_VARIABLE}={name}.")
    _write(folder / "context", f"{name}\n".encode())


def remove_context(name: str, environ: Mapping[str, str] | None = None) -> None:
    """Forget a context; this machine is current if it was.

    Raises:
        UserError: there is none of that name, or it is built in.
    """
    env = _environ(environ)
    if name == LOCAL_CONTEXT:
        raise UserError(f"{LOCAL_CONTEXT!r} is built in and cannot be removed.")
    path = _path(name, env)
    folder = config_dir(env)
    chosen = folder / "context" if folder is not None else None
    if chosen is not None and chosen.is_file() and chosen.read_text().strip() == name:
        _write(chosen, f"{LOCAL_CONTEXT}\n".encode())
    path.unlink()


def context_path(name: str, environ: Mapping[str, str] | None = None) -> Path:
    """The file of a context; UserError if there is none of that name."""
    return _path(name, _environ(environ))


def _path(name: str, environ: Mapping[str, str]) -> Path:
    folder = _folder(environ)
    path = folder / f"{name}.yaml" if folder is not None and _NAME.match(name) else None
    if path is None or not path.is_file():
        names = [entry.name for entry in list_contexts(environ)]
        fix = did_you_mean(name, names) if len(names) > 1 else _how_to_add()
        raise UserError(f"there is no context {name!r}. {fix}")
    return path


def _how_to_add() -> str:
    return "Add one with `platformctl context add FILE`."


def _folder(environ: Mapping[str, str]) -> Path | None:
    folder = config_dir(environ)
    return None if folder is None else folder / "contexts"


def _write(path: Path, data: bytes) -> None:
    """Replace a file as a whole, readable by its owner: who reads it meanwhile sees old or new."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        partial.touch(mode=0o600)
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _environ(environ: Mapping[str, str] | None) -> Mapping[str, str]:
    return os.environ if environ is None else environ
