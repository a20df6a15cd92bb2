"""What holds for all tests."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

# A developer whose current context is a cluster shall not run the tests there.
os.environ["CRUCIBLE_CONTEXT"] = "local"

pytest_plugins = ["crucible.testing.left_out"]
_ONE_PROCESS = re.compile(r"tests/(cluster|images)/")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Processes that share the tests take whole files; what runs a Kubernetes is one's alone."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "one process" if _ONE_PROCESS.match(path) else path

    return Scheduler(config, log)


@pytest.fixture(autouse=True, scope="module")
def same_environment() -> Iterator[None]:
    """A module that changes the environment of this process must change it back."""
    before = dict(os.environ)
    yield
    changed = {n for n in before.keys() | os.environ.keys() if before.get(n) != os.environ.get(n)}
    changed -= {"PYTEST_CURRENT_TEST"}
    assert not changed, f"left in the environment for the next tests: {sorted(changed)}"
