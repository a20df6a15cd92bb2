"""Registration, promotion and rollback on a real MLflow, read back through MLflow's own client."""

from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crucible.errors import ArtifactCorrupt, GateRefused, RegistryError, UserError
from crucible.registry import Decision, Registry, audit
from crucible.tracking.client import connect

if TYPE_CHECKING:
    from tests.unit.registry.conftest import Workshop


def aliases(workshop: Workshop) -> dict[str, int]:
    found = connect(workshop.settings).get_registered_model("vlm").aliases
    return {alias: int(number) for alias, number in found.items()}


def test_first_version_is_candidate_and_champion_in_mlflow_itself(workshop: Workshop) -> None:
    version = workshop.release("first", 60)
    assert aliases(workshop) == {"candidate": 1, "champion": 1}
    seen = connect(workshop.settings).get_model_version_by_alias("vlm", "champion")
    assert seen.run_id == workshop.mlflow_run_id
    assert seen.tags["gate.status"] == "pass"
    assert seen.tags["artifact.digest"] == version.digest
    assert seen.tags["git.sha"] == "a" * 40
    assert Decision.from_json(seen.tags["gate.decision"]) == workshop.decisions[0]
    assert seen.tags["gate.policy_sha"] == workshop.decisions[0].policy.sha256
    assert "| accuracy | 0.6 | ≥ 0.2 | yes |" in seen.description
    assert Path(seen.source.removeprefix("file://"), "MLmodel").is_file()


def test_worse_model_is_registered_and_refused_with_numbers(workshop: Workshop) -> None:
    workshop.release("good", 80)
    version = workshop.release("bad", 40)
    assert aliases(workshop) == {"candidate": 2, "champion": 1}
    assert version.gate_status == "fail"
    seen = connect(workshop.settings).get_model_version("vlm", "2")
    assert "Only the candidate right: 0, only the champion right: 40" in seen.description
    with pytest.raises(GateRefused, match=r"-0\.4000") as refused:
        workshop.registry.promote("vlm", 2)
    assert pickle.loads(pickle.dumps(refused.value)).args == refused.value.args
    assert audit.entries(workshop.settings.home_dir)[-1]["action"] == "refuse"


def test_better_model_takes_the_alias_and_leaves_previous(workshop: Workshop) -> None:
    workshop.release("first", 60)
    version = workshop.release("second", 80)
    assert version.aliases == ("candidate", "champion")
    assert version.decided_against == 1
    assert aliases(workshop) == {"candidate": 2, "champion": 2, "previous": 1}


def test_same_artifact_is_one_version(workshop: Workshop) -> None:
    first = workshop.release("first", 60)
    candidate = workshop.candidate(workshop.store_ref(first.digest), 60)
    again = workshop.registry.register(candidate, workshop.decisions[0], None)
    assert again == first
    assert len(workshop.registry.versions("vlm")) == 1


def test_reregistered_version_without_alias_gets_the_new_decision(workshop: Workshop) -> None:
    workshop.release("good", 80)
    refused = workshop.release("bad", 40)
    candidate = workshop.candidate(workshop.store_ref(refused.digest), 40)
    passed = workshop.decisions[0]
    again = workshop.registry.register(candidate, passed, None)
    assert (again.version, again.gate_status, again.decided_against) == (2, "pass", None)


def test_force_needs_a_reason_and_is_tagged_and_on_record(workshop: Workshop) -> None:
    workshop.release("good", 80)
    workshop.release("bad", 40)
    with pytest.raises(UserError, match="reason"):
        workshop.registry.promote("vlm", 2, force=True, reason="  ")
    version = workshop.registry.promote("vlm", 2, force=True, reason="demo tonight")
    assert version.gate_status == "forced"
    assert version.tags["gate.forced_reason"] == "demo tonight"
    assert version.decision == workshop.decisions[1]
    entry = audit.entries(workshop.settings.home_dir)[-1]
    assert (entry["action"], entry["before"], entry["version"]) == ("force", 1, 2)
    assert entry["reason"] == "demo tonight"


def test_promotion_decides_anew_when_the_champion_changed_meanwhile(workshop: Workshop) -> None:
    workshop.release("first", 30)
    workshop.release("middling", 60, promote=False)  # passed against version 1
    workshop.release("best", 90)
    with pytest.raises(GateRefused, match=r"-0\.3000"):
        workshop.registry.promote("vlm", 2)
    version = workshop.registry.show("vlm", 2)
    assert (version.gate_status, version.decided_against) == ("fail", 3)


def test_compare_and_set_refuses_a_moved_alias(workshop: Workshop) -> None:
    workshop.release("first", 30)
    workshop.release("second", 60, promote=False)
    workshop.release("third", 90)
    with pytest.raises(RegistryError, match="at version 3, not 1"):
        workshop.registry.promote("vlm", 2, expected=1)


def test_rollback_swaps_and_swaps_back(workshop: Workshop) -> None:
    workshop.release("first", 60)
    with pytest.raises(RegistryError, match="no predecessor"):
        workshop.registry.rollback("vlm")
    workshop.release("second", 80)
    assert workshop.registry.rollback("vlm").version == 1
    assert aliases(workshop) == {"candidate": 2, "champion": 1, "previous": 2}
    assert "gate.rolled_back" in workshop.registry.show("vlm", 2).tags
    assert workshop.registry.rollback("vlm").version == 2
    assert aliases(workshop)["previous"] == 1
    assert "gate.rolled_back" not in workshop.registry.show("vlm", 2).tags


@pytest.mark.parametrize("crash_after", [0, 1])
def test_rollback_interrupted_between_aliases_keeps_a_right_champion(
    workshop: Workshop, crash_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop.release("first", 60)
    workshop.release("second", 80)
    versions = workshop.registry._versions
    calls = 0
    set_alias = versions.set_alias

    def dies(name: str, alias: str, number: int) -> None:
        nonlocal calls
        if calls == crash_after:
            raise KeyboardInterrupt
        calls += 1
        set_alias(name, alias, number)

    monkeypatch.setattr(versions, "set_alias", dies)
    with pytest.raises(KeyboardInterrupt):
        workshop.registry.rollback("vlm")
    monkeypatch.undo()
    assert aliases(workshop)["champion"] == (1 if crash_after else 2)
    assert audit.entries(workshop.settings.home_dir)[-1]["action"] == "rollback"


def test_other_aliases_have_their_own_predecessor(workshop: Workshop) -> None:
    workshop.release("first", 60)
    workshop.release("second", 80)
    workshop.registry.promote("vlm", 1, "staging")
    workshop.registry.promote("vlm", 2, "staging")
    assert aliases(workshop)["previous-staging"] == 1
    assert workshop.registry.rollback("vlm", "staging").version == 1


def test_parallel_registrations_of_one_artifact_make_one_version(workshop: Workshop) -> None:
    candidate = workshop.candidate(workshop.model("only"), 60)
    decision = workshop.registry.decide(
        workshop.policy, candidate.metrics_digest, candidate.predictions_digest, None
    )
    numbers: list[int] = []

    def register() -> None:
        found = Registry(workshop.settings).register(candidate, decision, None)
        numbers.append(found.version)

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers == [1, 1, 1, 1]


def test_resolve_and_show_name_what_exists(workshop: Workshop) -> None:
    version = workshop.release("first", 60)
    registry = workshop.registry
    assert registry.resolve("models:/vlm@champion") == version.digest
    assert registry.resolve("models:/vlm/1") == version.digest
    with pytest.raises(UserError, match="Did you mean 'champion'"):
        registry.resolve("models:/vlm@champoin")
    with pytest.raises(UserError, match="Did you mean 'vlm'"):
        registry.show("vlmm")
    with pytest.raises(UserError, match="no version 7"):
        registry.show("vlm", 7)
    with pytest.raises(UserError, match="not a model"):
        registry.resolve("vlm@champion")
    for alias in ("latest", "v3", "previous", "a b"):
        with pytest.raises(UserError, match="alias"):
            registry.promote("vlm", 1, alias)


def test_digests_are_what_garbage_collection_must_keep(workshop: Workshop) -> None:
    version = workshop.release("first", 60)
    kept = workshop.registry.digests()
    assert version.digest in kept
    assert version.tags["predictions.digest"] in kept
    assert version.tags["metrics.digest"] in kept
    assert len(kept) == 3


def test_pull_copies_verified_files(workshop: Workshop, tmp_path: Path) -> None:
    version = workshop.release("first", 60)
    folder = tmp_path / "pulled"
    assert workshop.registry.pull("models:/vlm@champion", folder) == version.digest
    assert (folder / "model.safetensors").read_text() == "first"
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(UserError, match="not an empty folder"):
        workshop.registry.pull("models:/vlm@champion", folder)


def test_pull_of_damaged_bytes_leaves_nothing(workshop: Workshop, tmp_path: Path) -> None:
    workshop.release("first", 60)
    sha = workshop.registry.show("vlm").tags["weights.sha256"]
    blob = workshop.settings.home_dir / "store" / "blobs" / "sha256" / sha[:2] / sha
    blob.chmod(0o644)
    blob.write_text("worst")
    with pytest.raises(ArtifactCorrupt, match=sha):
        workshop.registry.pull("models:/vlm@champion", tmp_path / "pulled")
    assert not [p for p in tmp_path.iterdir() if "pulled" in p.name]


def test_versions_of_others_and_of_newer_code_are_listed(workshop: Workshop) -> None:
    workshop.release("first", 60)
    client = connect(workshop.settings)
    newer = json.loads(client.get_model_version("vlm", "1").tags["gate.decision"])
    newer["seal"] = "x"
    newer["policy"]["rule_version"] = 2
    client.set_model_version_tag("vlm", "1", "gate.decision", json.dumps(newer))
    assert workshop.registry.show("vlm", 1).decision == workshop.decisions[0]
    client.create_model_version("vlm", "file:///elsewhere", workshop.mlflow_run_id)
    client.set_model_version_tag("vlm", "2", "gate.decision", "{}")
    other = workshop.registry.show("vlm", 2)
    assert (other.gate_status, other.decision, other.digest) == ("unknown", None, None)
    assert other.summary == "no gate decision"
    with pytest.raises(GateRefused, match="no gate decision"):
        workshop.registry.promote("vlm", 2)
    with pytest.raises(UserError, match="not registered by this platform"):
        workshop.registry.resolve("models:/vlm/2")


def test_version_reads_as_json_and_text(workshop: Workshop) -> None:
    workshop.release("first", 60)
    version = workshop.release("second", 80)
    document = json.loads(json.dumps(version.to_json()))
    assert document["decision"]["comparison"]["num_pairs"] == 100
    assert document["data"] == {"scenes.train": "sha256:" + "1" * 64}
    text = version.describe()
    assert "models:/vlm/2  @candidate @champion" in text
    assert "| counting | 50 |" in text
    assert version.summary.startswith("accuracy 0.8, +0.200 [")
