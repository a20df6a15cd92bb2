"""What a run of the tests had to leave out, said as the last thing: a skip is one letter.

A plugin of pytest. It works in the workers of pytest-xdist too, whose own ends nobody sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

_LEFT_OUT = pytest.StashKey[dict[str, str]]()
_OUTPUT_KEY = "left_out"


def leave_out(config: pytest.Config, what: str, reason: str) -> None:
    """Have the end of the run say that ``what`` did not run, and why."""
    config.stash.setdefault(_LEFT_OUT, {})[what] = reason


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what a worker left out to the process that started it."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_OUTPUT_KEY] = session.config.stash.get(_LEFT_OUT, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker left out."""
    for what, reason in getattr(node, "workeroutput", {}).get(_OUTPUT_KEY, {}).items():
        leave_out(node.config, what, reason)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # the last section
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Say it."""
    yield
    for what, reason in terminalreporter.config.stash.get(_LEFT_OUT, {}).items():
        terminalreporter.section(f"{what} DID NOT RUN", red=True)
        terminalreporter.line(reason)
