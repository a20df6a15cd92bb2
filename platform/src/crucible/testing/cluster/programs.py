"""Kubernetes as programs: found where envtest keeps them, or built from Go modules by name.

No image registry and no release page is needed, only a Go module proxy. ``go/`` is one module with
pinned digests: what the programs share is compiled once. A digest of it names a cache, so that a
changed pin builds anew and an old one stays usable. Programs in ``KUBEBUILDER_ASSETS`` are taken
first.
"""

from __future__ import annotations

import fcntl
import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crucible.testing.cluster.go_programs import build_program, cache_home, sources_digest

logger = logging.getLogger(__name__)

VERSION = "1.34.4"
"""The last minor version but one that starts on cgroup v1 without being asked to."""
_SOURCES = Path(__file__).parent / "go"
_LDFLAGS = f"-s -w -X k8s.io/component-base/version.gitVersion=v{VERSION}"


@dataclass(frozen=True)
class _Program:
    name: str
    package: str
    seconds: int
    """Of a first build, in this order, on two cores."""


_PROGRAMS = (
    _Program("etcd", "./etcd", 30),
    _Program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver", 130),
    _Program("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager", 40),
    _Program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler", 4),
    _Program("kubelet", "k8s.io/kubernetes/cmd/kubelet", 14),
    _Program("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy", 5),
    _Program("kubectl", "k8s.io/kubernetes/cmd/kubectl", 10),
    _Program("coredns", "./coredns", 5),
    _Program("kwok", "sigs.k8s.io/kwok/cmd/kwok", 10),
)


def all_built() -> bool:
    """True if no program needs building."""
    return not _absent()


def build_programs() -> Mapping[str, Path]:
    """Every program by name; builds what is absent, which takes minutes the first time.

    Raises:
        ClusterFailed: the build failed; with what the compiler said.
    """
    if _absent():
        folder = _cache_dir()
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:  # another process may be building the same
            fcntl.flock(lock, fcntl.LOCK_EX)
            _build(_absent(), folder)
    return {program.name: _locate(program.name) for program in _PROGRAMS}


def _absent() -> list[_Program]:
    return [program for program in _PROGRAMS if not os.access(_locate(program.name), os.X_OK)]


def _locate(name: str) -> Path:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and os.access(Path(assets) / name, os.X_OK):
        return Path(assets) / name
    return _cache_dir() / name


def _cache_dir() -> Path:
    return cache_home() / "kubernetes" / f"{VERSION}-{_digest()}" / "bin"


@functools.cache
def _digest() -> str:
    return sources_digest(_SOURCES, _LDFLAGS)


def _build(programs: list[_Program], folder: Path) -> None:
    expected = sum(program.seconds for program in programs)
    for number, program in enumerate(programs, 1):
        logger.info(
            "building %s (%d of %d); what is left takes about %d s the first time on two cores",
            program.name, number, len(programs), expected,
        )  # fmt: skip
        build_program(program.package, _SOURCES, folder / program.name, ldflags=_LDFLAGS)
        expected -= program.seconds
