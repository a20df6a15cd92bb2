"""Hard limits on size, and what must never stand in the tree."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_POSITIONAL_PARAMETERS = 5
TOP_LEVEL = {
    *("pyproject.toml", "platform", "pipelines", "components", "charts", "manifests", "tests"),
    *("README.md", "requirements.txt", "Makefile"),
}


EXCEPTIONS = {"processing.py __init__"}
"""transformers saves and restores positional parameters of processors only."""


def tracked_files() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    return [REPOSITORY / name for name in names if (REPOSITORY / name).is_file()]


def python_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_modules_are_short() -> None:
    lengths = {path: path.read_text().count("\n") for path in python_files()}
    assert {str(path): n for path, n in lengths.items() if n > MAX_MODULE_LINES} == {}


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}"
        for path in python_files()
        for node in functions(path)
        if (node.end_lineno or node.lineno) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_functions_take_few_positional_parameters() -> None:
    wide = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}"
        for path in python_files()
        if "cli" not in path.parts and "tests" not in path.parts
        for node in functions(path)
        if len([a for a in node.args.args if a.arg not in ("self", "cls")])
        > MAX_POSITIONAL_PARAMETERS
        and f"{path.name} {node.name}" not in EXCEPTIONS
    ]
    assert wide == []


def test_top_level_is_the_design() -> None:
    found = {path.relative_to(REPOSITORY).parts[0] for path in tracked_files()}
    assert {name for name in found if not name.startswith(".")} <= TOP_LEVEL


def test_platform_folder_is_no_package() -> None:
    """`platform/__init__.py` would shadow the standard library's module of that name."""
    assert not (REPOSITORY / "platform" / "__init__.py").exists()


@pytest.mark.parametrize("word", ["pickle.load", "torch.load(", "shell=True", " eval("])
def test_nothing_dangerous_is_called(word: str) -> None:
    sources = [p for p in python_files() if "src" in p.parts]
    assert [str(path) for path in sources if word in path.read_text()] == []
