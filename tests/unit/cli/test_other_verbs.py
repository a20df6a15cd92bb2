"""models, components, artifacts, doctor, completion, help, and the pinned surface."""

from __future__ import annotations

import pytest

NOOP = "uses: 'crucible.testing.components:Noop'"

VERBS = (
    *("validate", "plan", "submit", "compile", "schema", "runs", "status", "watch", "logs", "why"),
    *("cancel", "retry", "resume", "doctor", "completion", "models", "components", "artifacts"),
    *("context", "images", "merge"),
)


def test_help_names_every_verb(platformctl) -> None:
    done = platformctl("--help")
    assert done.code == 0
    listed = [line.split()[0] for line in done.out.split("Commands:")[1].splitlines() if line]
    assert tuple(listed) == VERBS


@pytest.mark.parametrize(
    ("group", "verbs"),
    [
        ("models", ("list", "show", "promote", "rollback", "pull")),
        ("components", ("list", "show")),
        ("artifacts", ("show", "gc")),
        ("merge", ("plan", "run")),
        ("context", ("list", "current", "show", "use", "add", "remove")),
    ],
)
def test_groups_have_their_verbs(platformctl, group, verbs) -> None:
    out = platformctl(group, "--help").out
    listed = [line.split()[0] for line in out.split("Commands:")[1].splitlines() if line]
    assert tuple(listed) == verbs


def test_misspelt_verb_is_a_user_error(platformctl) -> None:
    done = platformctl("sumbit")
    assert done.code == 2
    assert "sumbit" in done.err


def test_components_show_their_settings(platformctl) -> None:
    names = [info["name"] for info in platformctl("components", "list", "--json").json]
    assert "merge-models" in names
    shown = platformctl("components", "show", "merge-models").out
    assert "merge_method" in shown
    done = platformctl("components", "show", "merge-model")
    assert done.code == 2
    assert "merge-models" in done.err


def test_artifacts_are_shown_by_place_and_digest(platformctl, pipeline) -> None:
    platformctl("submit", pipeline("good", a=NOOP))
    run_id = platformctl("runs", "--json").json[0]["run_id"]
    by_place = platformctl("artifacts", "show", f"{run_id}/a/dataset", "--json").json
    assert by_place["type"] == "Dataset"
    by_digest = platformctl("artifacts", "show", by_place["digest"], "--json").json
    assert by_digest == by_place
    assert platformctl("artifacts", "show", "sha256:" + "0" * 64).code == 1
    for wrong in ("nonsense", f"{run_id}/a/nope", f"{run_id}/b/dataset"):
        assert platformctl("artifacts", "show", wrong).code == 2


def test_gc_keeps_what_manifests_reach(platformctl, pipeline) -> None:
    platformctl("submit", pipeline("good", a=NOOP))
    before = platformctl("runs", "--json").json[0]["run_id"]
    assert platformctl("artifacts", "gc", "--json").json["removed_blobs"] == 0
    assert platformctl("artifacts", "show", f"{before}/a/dataset").code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(platformctl, shell) -> None:
    done = platformctl("completion", shell)
    assert done.code == 0
    assert "_PLATFORMCTL_COMPLETE" in done.out


@pytest.mark.slow
def test_doctor_finds_a_broken_store(platformctl, environment) -> None:
    assert platformctl("doctor").code == 0
    environment["CRUCIBLE_STORE"] = "s3://no-endpoint-configured/prefix"
    environment["CRUCIBLE_S3_ENDPOINT"] = "http://127.0.0.1:9"
    checks = {check["name"]: check for check in platformctl("doctor", "--json").json}
    assert checks["artifact store"]["passed"] is False
    assert checks["artifact store"]["fix"]
