"""A machine that cannot run a cluster is told everything it lacks."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from crucible.testing.cluster import requirements
from crucible.testing.cluster.failures import MachineUnfit


def test_everything_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(requirements, "all_built", lambda: False)
    monkeypatch.setattr(requirements, "_PLUGIN_DIRS", ())
    with pytest.raises(MachineUnfit) as caught:
        requirements.check_machine()
    said = str(caught.value)
    assert "needs root" in said
    packages = "busybox-static conntrack containerd iproute2 iptables mount runc util-linux"
    assert f"apt-get install {packages} containernetworking-plugins" in said
    assert "install Go 1.26" in said


def test_other_systems_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert requirements.find_problems() == ["a kubelet needs Linux, this is darwin"]


@pytest.mark.parametrize(
    ("version", "suffices"), [("go1.19.8", False), ("go1.21.0", True), ("go1.26.8", True)]
)
def test_go_has_to_know_how_to_fetch_a_newer_one(
    monkeypatch: pytest.MonkeyPatch, version: str, suffices: bool
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/go")
    monkeypatch.setattr(requirements.subprocess, "check_output", lambda *_, **__: f"{version}\n")
    assert requirements._go_suffices() is suffices
