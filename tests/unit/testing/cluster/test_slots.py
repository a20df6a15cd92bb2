"""Slots are apart, and swept only when their owner is dead."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from crucible.testing.cluster import slots
from crucible.testing.cluster.failures import ClusterFailed


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(slots, "FOLDER", tmp_path / "clusters")
    monkeypatch.setattr(slots, "_CGROUPS", tmp_path / "cgroup")
    (tmp_path / "cgroup").mkdir()
    set_routes(monkeypatch, "default")
    return tmp_path


def set_routes(monkeypatch: pytest.MonkeyPatch, *targets: str) -> None:
    listing = json.dumps([{"dst": target} for target in targets])

    def run(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, listing, "")

    monkeypatch.setattr(subprocess, "run", run)


def test_every_owner_has_a_slot_and_addresses_of_its_own() -> None:
    first, second = slots.claim_slot(), slots.claim_slot()
    assert (first.number, second.number) == (0, 1)
    assert not first.block.overlaps(second.block)
    first.release()
    third = slots.claim_slot()
    assert third.number == 0
    third.release()
    second.release()


def test_a_slot_can_be_asked_for_once() -> None:
    slot = slots.claim_slot(5)
    assert str(slot.block) == "198.18.20.0/22"
    with pytest.raises(ClusterFailed, match="slot 5 is taken"):
        slots.claim_slot(5)
    slot.release()


def test_a_slot_s_networks_are_apart() -> None:
    slot = slots.claim_slot()
    networks = [slot.pods, slot.services, slot.simulated_pods]
    assert all(network.subnet_of(slot.block) for network in networks)
    assert len({str(network) for network in networks}) == 3
    ends = [ipaddress.ip_address(end) for end in (slot.gateway, slot.node)]
    assert not any(end in network for end in ends for network in networks)
    slot.release()


def test_addresses_that_lead_elsewhere_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    set_routes(monkeypatch, "default", "198.18.1.0/24", "198.18.4.7")
    slot = slots.claim_slot()
    assert slot.number == 2
    slot.release()


def test_a_dead_owner_s_folder_is_swept_and_a_live_one_s_is_not(places: Path) -> None:
    live = slots.claim_slot()
    (live.folder / "state.json").write_text('{"name": "live"}')
    left = places / "clusters" / "7"
    left.mkdir()
    (left / "state.json").write_text('{"name": "dead"}')
    assert list(slots.describe_live()) == [{"name": "live"}]
    assert slots.sweep_leftovers() == [7]
    assert not left.exists()
    assert live.folder.exists()
    live.release()
    assert not live.folder.exists()
