"""Programs are built once, and taken from envtest where it has them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from crucible.testing.cluster import programs
from crucible.testing.cluster.failures import ClusterFailed

NAMES = [program.name for program in programs._PROGRAMS]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return tmp_path / "cache"


def compiler(monkeypatch: pytest.MonkeyPatch, returncode: int = 0) -> list[str]:
    """Stands in for Go; returns the list to which each built package is added."""
    built: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        built.append(command[-1])
        place(Path(command[command.index("-o") + 1]))
        return subprocess.CompletedProcess(command, returncode, "", "undefined: everything")

    monkeypatch.setattr(subprocess, "run", run)
    return built


def place(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)


def test_everything_is_built_once(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    built = compiler(monkeypatch)
    found = programs.build_programs()
    assert list(found) == NAMES
    assert all(path.is_relative_to(cache / "crucible" / "kubernetes") for path in found.values())
    assert len(built) == len(NAMES)
    assert programs.all_built()
    programs.build_programs()
    assert len(built) == len(NAMES)


def test_programs_of_envtest_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = compiler(monkeypatch)
    assets = tmp_path / "assets"
    place(assets / "etcd")
    place(assets / "kube-apiserver")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(assets))
    found = programs.build_programs()
    assert found["etcd"] == assets / "etcd"
    assert len(built) == len(NAMES) - 2
    assert "k8s.io/kubernetes/cmd/kube-apiserver" not in built


def test_a_failed_build_says_why_and_leaves_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler(monkeypatch, returncode=1)
    with pytest.raises(ClusterFailed, match="undefined: everything"):
        programs.build_programs()
    assert not programs.all_built()


def test_modules_are_pinned() -> None:
    folder = Path(programs.__file__).parent / "go"
    assert f"k8s.io/kubernetes v{programs.VERSION}" in (folder / "go.mod").read_text()
    assert (folder / "go.sum").exists()
