"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# A developer whose current context is a cluster shall not run the tests there.
os.environ["CRUCIBLE_CONTEXT"] = "local"


@pytest.fixture(autouse=True, scope="module")
def same_environment() -> Iterator[None]:
    """A module that changes the environment of this process must change it back."""
    before = dict(os.environ)
    yield
    changed = {n for n in before.keys() | os.environ.keys() if before.get(n) != os.environ.get(n)}
    changed -= {"PYTEST_CURRENT_TEST"}
    assert not changed, f"left in the environment for the next tests: {sorted(changed)}"
