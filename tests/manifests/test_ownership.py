"""Each object is defined once, belongs to us by its labels, and is reached from an overlay."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from crucible.testing.manifests import Manifest, ObjectKey, object_key

LABELS = {"name", "part-of", "component", "managed-by"}
KFP_OWNS = {ObjectKey("", "ConfigMap", "kubeflow", "kfp-launcher")}
"""We apply one field of it."""


def kustomizations(manifests: Path) -> dict[Path, dict[str, Any]]:
    files = manifests.glob("**/kustomization.yaml")
    return {path.parent: yaml.safe_load(path.read_text()) for path in files}


def patches(folder: Path, kustomization: dict[str, Any]) -> set[Path]:
    return {folder / patch["path"] for patch in kustomization.get("patches", []) if "path" in patch}


def test_objects_are_unique(overlay: list[Manifest]) -> None:
    counts = Counter(object_key(manifest) for manifest in overlay)
    assert [key for key, count in counts.items() if count > 1] == []


def test_objects_are_defined_in_one_file(manifests: Path) -> None:
    found: dict[ObjectKey, list[str]] = {}
    built = kustomizations(manifests)
    patching = {path for folder, content in built.items() for path in patches(folder, content)}
    for path in sorted(set(manifests.glob("**/*.yaml")) - patching):
        if path.name == "kustomization.yaml":
            continue
        for manifest in yaml.safe_load_all(path.read_text()):
            found.setdefault(object_key(manifest), []).append(str(path.relative_to(manifests)))
    assert {key: paths for key, paths in found.items() if len(paths) > 1} == {}
    assert len(found) > 30


def test_every_file_is_used(manifests: Path) -> None:
    used: set[Path] = set()
    for folder, content in kustomizations(manifests).items():
        used |= patches(folder, content)
        for entry in [*content.get("resources", []), *content.get("components", [])]:
            if not entry.startswith("https://"):
                place = (folder / entry).resolve()
                used.add(place / "kustomization.yaml" if place.is_dir() else place)
    roots = set(manifests.glob("overlays/*/kustomization.yaml"))
    roots |= {manifests / "third-party" / "kustomization.yaml"}
    optional = {manifests / "components" / "kfp-default-root" / "kustomization.yaml"}
    assert {path.resolve() for path in manifests.glob("**/*.yaml")} - used == roots | optional


def test_objects_carry_our_labels(overlay: list[Manifest]) -> None:
    for manifest in overlay:
        key = object_key(manifest)
        if key._replace(namespace="kubeflow") in KFP_OWNS:
            continue
        labels = manifest["metadata"].get("labels", {})
        missing = {name for name in LABELS if f"app.kubernetes.io/{name}" not in labels}
        assert not missing, key
        assert labels["app.kubernetes.io/part-of"] == "crucible"
        # The engine's label: NetworkPolicies take what carries it for a step.
        assert labels["app.kubernetes.io/managed-by"] == "kustomize"


def test_objects_of_kfp_are_ours_in_one_field(overlay: list[Manifest]) -> None:
    for manifest in overlay:
        if object_key(manifest)._replace(namespace="kubeflow") in KFP_OWNS:
            assert set(manifest) == {"apiVersion", "kind", "metadata", "data"}
            assert set(manifest["metadata"]) == {"name", "namespace"}
            assert set(manifest["data"]) == {"providers"}


def test_namespaces(overlay: list[Manifest]) -> None:
    """Only crucible-system is ours: deleting an overlay must not delete KFP's namespace."""
    [namespace] = [manifest for manifest in overlay if manifest["kind"] == "Namespace"]
    assert namespace["metadata"]["name"] == "crucible-system"
    modes = {f"pod-security.kubernetes.io/{mode}" for mode in ("enforce", "warn", "audit")}
    labels = namespace["metadata"]["labels"]
    assert {labels[mode] for mode in modes} == {"restricted"}


def test_charts_define_none_of_it(manifests: Path, gpu: list[Manifest]) -> None:
    ours = {(key.kind, key.name) for key in map(object_key, gpu)}
    assert defined_in(manifests.parent / "charts") & ours == set()


def defined_in(folder: Path) -> set[tuple[str, str]]:
    """Kinds and literal names in templates, which are not YAML before they are rendered."""
    pattern = re.compile(r"^kind: (\w+)\s*\nmetadata:\n(?:  .*\n)*?  name: ([\w-]+)\s*$", re.M)
    return {
        (match[1], match[2])
        for path in folder.glob("**/*.yaml")
        for match in pattern.finditer(path.read_text())
    }


@pytest.mark.parametrize("second", ["  name: store\n", "  labels: {a: b}\n  name: store\n"])
def test_a_second_definition_in_a_chart_is_found(tmp_path: Path, second: str) -> None:
    (tmp_path / "a.yaml").write_text(f"apiVersion: v1\nkind: Service\nmetadata:\n{second}spec: 1\n")
    assert defined_in(tmp_path) == {("Service", "store")}
