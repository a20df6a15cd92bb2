"""manifests/secrets.sh: fresh values, the same keys on both sides, nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import kubernetes_validate
import yaml

from crucible.testing.manifests import Manifest

LENGTHS = {"AWS_ACCESS_KEY_ID": 20, "AWS_SECRET_ACCESS_KEY": 40, "password": 40}


def made(manifests: Path, *namespaces: str) -> list[Manifest]:
    done = subprocess.run(
        [manifests / "secrets.sh", *namespaces], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def test_secrets(manifests: Path) -> None:
    secrets = made(manifests)
    for secret in secrets:
        kubernetes_validate.validate(secret, "1.34", strict=True)
        for key, value in secret["stringData"].items():
            assert len(value) == LENGTHS[key]
            int(value, 16)
    places = [(s["metadata"]["namespace"], s["metadata"]["name"]) for s in secrets]
    assert places == [
        ("crucible-system", "crucible-store"),
        ("kubeflow", "crucible-store"),
        ("crucible-system", "crucible-postgres"),
    ]
    assert secrets[0]["stringData"] == secrets[1]["stringData"]
    assert set(secrets[0]["stringData"]) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_values_are_fresh(manifests: Path) -> None:
    seen = {v for _ in range(3) for s in made(manifests) for v in s["stringData"].values()}
    assert len(seen) == 9


def test_other_namespaces(manifests: Path) -> None:
    names = [s["metadata"]["namespace"] for s in made(manifests, "team-a", "team-b")]
    assert names == ["crucible-system", "team-a", "team-b", "crucible-system"]
