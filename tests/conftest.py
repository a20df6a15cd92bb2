"""What holds for all tests."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

# A developer whose current context is a cluster shall not run the tests there.
os.environ["CRUCIBLE_CONTEXT"] = "local"

pytest_plugins = ["crucible.testing.left_out"]
_READ_BY_US = re.compile(r"CRUCIBLE_|AWS_|KUBE|MLFLOW_TRACKING_|XDG_|(HOME|PATH)$")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_TOGETHER = re.compile(r"tests/(cluster/manifests|images)/")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Processes that share the tests take whole files, or all that share what took long to make."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            together = _TOGETHER.match(nodeid)
            return together[1] if together else nodeid.partition("::")[0]

    return Scheduler(config, log)


@pytest.fixture(autouse=True, scope="module")
def same_environment() -> Iterator[None]:
    """A module that changes what we read of the environment must change it back.

    What libraries set for themselves when they are first loaded stays, whichever test loads them.
    """
    before = dict(os.environ)
    yield
    names = [n for n in before.keys() | os.environ.keys() if _READ_BY_US.match(n)]
    changed = [n for n in names if before.get(n) != os.environ.get(n)]
    assert not changed, f"left in the environment for the next tests: {sorted(changed)}"


@pytest.fixture(autouse=True)
def same_signals() -> Iterator[None]:
    """A test that ignores or blocks a signal must stop doing so: children inherit both."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    changed = [number for number in _SIGNALS if signal.getsignal(number) != before[number]]
    for number in changed:
        signal.signal(number, before[number])
    moved = mask ^ signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert not changed, f"left with other handlers for the next tests: {changed}"
    assert not moved, f"left blocked or unblocked for the next tests: {moved}"
