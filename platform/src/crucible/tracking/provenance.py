"""Who works here, and from which commit."""

from __future__ import annotations

import getpass
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SourceState:
    """A folder's commit and whether tracked files differ from it."""

    commit: str
    dirty: bool


def source_state(folder: Path) -> SourceState | None:
    """The git state of ``folder``; None if it is in no repository or git is not installed."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return SourceState(commit=commit, dirty=bool(changes))


def user_name() -> str:
    """The name of the user this process runs as, or the number where there is no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without an entry
        return str(os.getuid())


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            # Reading the state must not take the index lock from a commit under way.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
