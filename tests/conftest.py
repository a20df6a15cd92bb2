"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent

# A developer whose current context is a cluster shall not run the tests there.
os.environ["CRUCIBLE_CONTEXT"] = "local"

pytest_plugins = ["crucible.testing.left_out"]
_HEAVY = ("cluster", "images")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Processes that share the tests take whole files; what runs a Kubernetes is one's alone."""
    for item in items:
        area, *_ = item.path.relative_to(_TESTS).parts
        group = "cluster" if area in _HEAVY else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(autouse=True, scope="module")
def same_environment() -> Iterator[None]:
    """A module that changes the environment of this process must change it back."""
    before = dict(os.environ)
    yield
    changed = {n for n in before.keys() | os.environ.keys() if before.get(n) != os.environ.get(n)}
    changed -= {"PYTEST_CURRENT_TEST"}
    assert not changed, f"left in the environment for the next tests: {sorted(changed)}"
