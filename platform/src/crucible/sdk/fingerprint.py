"""Digests of what a step's outputs depend on besides its config and inputs: code and environment.

Code is the import closure of the component's module, found by reading source files and never by
importing them, so that planning loads no torch. Only first-party modules count: everything beside
the component's top-level package (only that package itself where it is installed), the data plane,
and `crucible.sdk.types`, which fixes file formats. The rest of the platform is left out on purpose:
a change of the command line must not invalidate a week of training. Third-party code is covered by
the environment digest.

Limits: modules imported by a computed name and data files that a package reads are not seen;
raise the component's ``version`` when one of them changes what a step writes.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

from crucible.errors import UserError
from crucible.sdk import types as contract_types
from crucible.sdk.component import Component

CODE_PART = "code"
"""Name of the code digest among the parts of a step's fingerprint."""

_DATA_PLANE = "crucible_components"
_OWN_DISTRIBUTION = "crucible-platform"
_INSTALL_DIR_NAMES = frozenset({"site-packages", "dist-packages"})


@cache
def code_digest(cls: type[Component]) -> str:
    """``sha256:<hex>`` over the source bytes of the component's import closure.

    Computed once a process: a loaded class does not change when its file does.

    Raises:
        UserError: the component's source, or a module it imports, cannot be read or parsed.
    """
    digest = hashlib.sha256()
    for name, source in sorted(_closure(sys.modules[cls.__module__]).items()):
        digest.update(f"{name}\0{len(source)}\0".encode())
        digest.update(source)
    return f"sha256:{digest.hexdigest()}"


@cache
def environment_digest() -> str:
    """``sha256:<hex>`` over Python's version and the installed distributions.

    Names and versions are read off the ``dist-info`` folders of ``sys.path``. This distribution is
    left out: its code enters through `code_digest`.
    """
    facts = (sys.implementation.name, ".".join(map(str, sys.version_info)), *_distributions())
    return f"sha256:{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()}"


def _distributions() -> list[str]:
    versions: dict[str, str] = {}
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:  # zip files and folders that do not exist stand on sys.path too
            continue
        for entry in names:
            stem, extension = os.path.splitext(entry)
            if extension == ".dist-info":
                name, _, version = stem.rpartition("-")
                versions.setdefault(name.lower().replace("_", "-").replace(".", "-"), version)
    versions.pop(_OWN_DISTRIBUTION, None)
    return sorted(f"{name}=={version}" for name, version in versions.items())


def _closure(module: ModuleType) -> dict[str, bytes]:
    """Source bytes of every first-party module that ``module`` can reach, by module name."""
    if module.__file__ is None or not module.__file__.endswith(".py"):
        raise UserError(
            f"component module {module.__name__} has no source file, so nobody could tell when "
            "its code changes. Use a component that is installed as source."
        )
    start = Path(module.__file__)
    roots = [*_roots(module.__name__, start), *_data_plane_roots()]
    types_path = Path(str(contract_types.__file__))
    sources = {contract_types.__name__: types_path.read_bytes()}
    pending = [(module.__name__, start)]
    while pending:
        name, path = pending.pop()
        if name in sources:
            continue
        sources[name] = path.read_bytes()
        for imported in _imports(sources[name], name, path):
            found = None if imported in sources else _find(imported, roots)
            if found is not None:
                pending.append((imported, found))
    return sources


_Root = tuple[Path, str | None]
"""A folder of sys.path, and the only top-level name that is first-party there (None: all are)."""


def _roots(name: str, path: Path) -> list[_Root]:
    parts = name.split(".")
    tail = [*parts, "__init__.py"] if path.name == "__init__.py" else [*parts[:-1], path.name]
    if path.stem not in (parts[-1], "__init__") or list(path.parts[-len(tail) :]) != tail:
        return []  # loaded by path under another name: the file is all there is
    root = path.parents[len(tail) - 1]
    return [(root, parts[0] if root.name in _INSTALL_DIR_NAMES else None)]


def _data_plane_roots() -> list[_Root]:
    spec = importlib.util.find_spec(_DATA_PLANE)
    folders = spec.submodule_search_locations if spec else None
    return [(Path(folder).parent, _DATA_PLANE) for folder in folders or ()]


def _find(name: str, roots: Iterable[_Root]) -> Path | None:
    """The source file of ``name`` if it is first-party."""
    parts = name.split(".")
    if parts[0] == "crucible" and parts[1:2] != ["testing"]:
        return None
    for root, only in roots:
        if only is None or parts[0] == only:
            base = root.joinpath(*parts)
            for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
                if path.is_file():
                    return path
    return None


def _imports(source: bytes, name: str, path: Path) -> set[str]:
    """Names that importing or running the module may import, parents included."""
    try:
        tree = ast.parse(source, filename=str(path))
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: {error.msg}. Fix the file.") from error
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names: set[str] = set()
    for imported in (*_imported_names(tree, package), name):
        parts = imported.split(".")
        names.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return names


def _imported_names(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)  # may be submodules
