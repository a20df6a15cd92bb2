"""The git state of real repositories."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from crucible.tracking.provenance import source_state

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_commit_and_changes(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert source_state(tmp_path) is None  # no commit yet
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "first")
    folder = tmp_path / "deeper"
    folder.mkdir()
    clean = source_state(folder)
    assert clean is not None
    assert (clean.commit, clean.dirty) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "untracked").write_text("")
    assert source_state(tmp_path) == clean
    (tmp_path / "file").write_text("two")
    changed = source_state(tmp_path)
    assert changed is not None
    assert changed.dirty


def test_no_repository_and_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert source_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_state(tmp_path) is None
