"""Prerequisites: pinned once, named in the README, Argo tuned as recommended."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import yaml

from crucible.testing.manifests import Manifest, render


def test_versions_are_pinned(versions: dict[str, str]) -> None:
    assert set(versions) == {"kubeflow/pipelines", "kubeflow/trainer", "kubernetes-sigs/kueue"}


def test_versions_stand_in_one_file(manifests: Path, versions: dict[str, str]) -> None:
    for path in manifests.glob("**/*.yaml"):
        if path != manifests / "third-party" / "kustomization.yaml":
            content = path.read_text()
            assert [v for v in versions.values() if v in content] == [], path


def test_tests_take_the_same_versions(manifests: Path, versions: dict[str, str]) -> None:
    """Definitions and controllers in test clusters are those that the README promises."""
    testing = manifests.parent / "platform" / "src" / "crucible" / "testing"
    pins = [testing / "site.py", testing / "controllers" / "install.py"]
    for project, module in (
        ("kubeflow/trainer", "github.com/kubeflow/trainer/v2"),
        ("kubernetes-sigs/kueue", "sigs.k8s.io/kueue"),
    ):
        for path in pins:
            assert f'"{module}", "{versions[project]}"' in path.read_text(), path
    text = (testing / "controllers" / "go" / "go.mod").read_text()
    for name in ("trainer", "kueue"):
        [version] = [v for project, v in versions.items() if project.endswith(f"/{name}")]
        assert re.search(rf"{name}(/v2)? {re.escape(version)}$", text, re.M), name


def test_the_readme_names_them(manifests: Path, versions: dict[str, str]) -> None:
    readme = (manifests / "README.md").read_text()
    assert [v for v in versions.values() if v.removeprefix("v") not in readme] == []


def test_commands_of_the_readme_name_folders_that_exist(manifests: Path) -> None:
    readme = (manifests / "README.md").read_text()
    folders = set(re.findall(r"-k manifests/([\w/-]+)", readme))
    assert {"third-party", "overlays/dev"} <= folders
    assert [f for f in folders if not (manifests / f / "kustomization.yaml").is_file()] == []


def test_argo_is_patched(tmp_path: Path, manifests: Path) -> None:
    """On objects as KFP has them: the rest of both stays."""
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": ["kfp.yaml"], "components": ["argo"]})
    )
    (tmp_path / "kfp.yaml").write_text(yaml.safe_dump_all([CONTROLLER, CONFIG]))
    shutil.copytree(manifests / "third-party" / "argo", tmp_path / "argo")
    config, controller = sorted(render(tmp_path), key=lambda m: str(m["kind"]))
    [container] = controller["spec"]["template"]["spec"]["containers"]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment == {"DEFAULT_REQUEUE_TIME": "1s", "TRANSIENT_ERROR_PATTERN": "x"}
    defaults = yaml.safe_load(config["data"]["workflowDefaults"])
    retry = {"limit": "0", "retryPolicy": "Always"}
    assert defaults == {
        "spec": {"ttlStrategy": TTL, "templateDefaults": {"retryStrategy": retry}},
    }
    assert config["data"]["executor"] == "imagePullPolicy: IfNotPresent\n"


TTL = {f"secondsAfter{end}": 3600 for end in ("Completion", "Success", "Failure")}
CONTROLLER: Manifest = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "workflow-controller", "namespace": "kubeflow"},
    "spec": {
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "workflow-controller",
                        "image": "quay.io/argoproj/workflow-controller:v4.0.8",
                        "env": [{"name": "TRANSIENT_ERROR_PATTERN", "value": "x"}],
                    }
                ]
            }
        }
    },
}
CONFIG: Manifest = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "workflow-controller-configmap", "namespace": "kubeflow"},
    "data": {
        "executor": "imagePullPolicy: IfNotPresent\n",
        "workflowDefaults": yaml.safe_dump(
            {
                "spec": {
                    "ttlStrategy": TTL,
                    "templateDefaults": {"retryStrategy": {"limit": "2", "retryPolicy": "OnError"}},
                }
            }
        ),
    },
}
