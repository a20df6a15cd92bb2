"""Pipeline files for tests, and a short way to see what is wrong with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crucible.errors import UserError
from crucible.specs import load_pipeline

HEAD = "apiVersion: crucible/v1\nkind: Pipeline\nmetadata: {name: p}\n"


@pytest.fixture(scope="session")
def examples_dir() -> Path:
    return Path(__file__).parent / "examples"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the text after a fixed head of three lines; the first of the text is line 4."""

    def write(body: str) -> Path:
        path = tmp_path / "p.yaml"
        path.write_text(HEAD + body)
        return path

    return write


@pytest.fixture
def problems_of(write: Callable[[str], Path]) -> Callable[..., list[str]]:
    """Problems as ``line:column path: message fix`` of a file with that body."""

    def problems_of(body: str, **arguments: object) -> list[str]:
        try:
            load_pipeline(write(body), **arguments)  # type: ignore[arg-type]
        except UserError as error:
            return [
                f"{p.line}:{p.column} {p.path}: {p.message} {p.fix}".strip() for p in error.problems
            ]
        return []

    return problems_of
