"""Every object is one that an API server of Kubernetes 1.34 knows, to the last field."""

from __future__ import annotations

import copy
from pathlib import Path

import kubernetes_validate
import pytest

from crucible.testing.custom_resources import CustomSchemas
from crucible.testing.manifests import Manifest, module_folder

KUBERNETES = "1.34"
DEFINITIONS = {
    "kubeflow/trainer": ("github.com/kubeflow/trainer/v2", "manifests/base/crds"),
    "kubernetes-sigs/kueue": ("sigs.k8s.io/kueue", "config/components/crd/bases"),
}
"""Module and folder in which projects publish their definitions."""


@pytest.fixture(scope="module")
def custom(versions: dict[str, str]) -> CustomSchemas:
    try:
        folders = [
            module_folder(module, versions[project]) / folder
            for project, (module, folder) in DEFINITIONS.items()
        ]
    except FileNotFoundError as error:
        pytest.skip(f"no definitions of custom resources: {error}")
    return CustomSchemas.load(folders)


def is_custom(manifest: Manifest) -> bool:
    group, _, _ = manifest["apiVersion"].rpartition("/")
    builtin = "." not in group or group.endswith(".k8s.io")
    return not builtin or group.endswith(".x-k8s.io")


def test_kubernetes_objects(overlay: list[Manifest]) -> None:
    for manifest in overlay:
        if not is_custom(manifest):
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_custom_objects(overlay: list[Manifest], custom: CustomSchemas) -> None:
    found = [manifest for manifest in overlay if is_custom(manifest)]
    assert [m for m in found if not custom.knows(m)] == []
    assert {m["metadata"]["name"]: custom.problems(m) for m in found if custom.problems(m)} == {}


def test_custom_kinds_are_where_they_are_asked_for(manifests: Path, gpu: list[Manifest]) -> None:
    """Who has neither Trainer nor Kueue can install without them."""
    kinds = {manifest["kind"] for manifest in gpu if is_custom(manifest)}
    assert kinds == {"ClusterTrainingRuntime", "ResourceFlavor", "ClusterQueue", "LocalQueue"}
    needs = [
        path.parent.name
        for path in manifests.glob("**/*.yaml")
        if any(f"kind: {kind}\n" in path.read_text() for kind in kinds)
    ]
    assert set(needs) == {"trainer", "kueue"}


def test_a_misspelt_field_is_noticed(gpu: list[Manifest], custom: CustomSchemas) -> None:
    runtime = copy.deepcopy(next(m for m in gpu if m["kind"] == "ClusterTrainingRuntime"))
    job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]
    job["template"]["spec"]["template"]["spec"]["priorityClass"] = "crucible-training"
    assert any("priorityClass" in problem for problem in custom.problems(runtime))
    deployment = copy.deepcopy(next(m for m in gpu if m["kind"] == "Deployment"))
    deployment["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES, strict=True)
