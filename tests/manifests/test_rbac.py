"""What may be done by whom: no wildcard, no Secret but by its name, nothing beyond the table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from crucible.specs.context import KubernetesSpec, StoreSpec
from crucible.testing.manifests import Manifest, object_key, of_kind

Grant = tuple[str, str, str, str]
"""Group, resource, name or nothing, verb."""
SYSTEM = "crucible-system"

EXECUTOR = {
    ("argoproj.io", "workflowtaskresults", "", "create"),
    ("argoproj.io", "workflowtaskresults", "", "patch"),
}
"""Argo's executor, beside every driver and step."""
LAUNCHER = {("", "configmaps", "kfp-launcher", "get"), ("", "secrets", "crucible-store", "get")}
"""KFP's driver and launcher: the pipeline root's settings and keys."""
TRAINJOBS = {
    ("trainer.kubeflow.org", "trainjobs", "", verb)
    for verb in ("create", "get", "list", "watch", "delete")
}
PODS = {("", "pods", "", verb) for verb in ("get", "list", "watch")} | {("", "pods/log", "", "get")}


def rules(objects: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    for manifest in [*of_kind(objects, "Role"), *of_kind(objects, "ClusterRole")]:
        for rule in manifest.get("rules", []):
            yield manifest["metadata"]["name"], rule


def grants(objects: list[Manifest], role: str) -> set[Grant]:
    return {
        (group, resource, name, verb)
        for owner, rule in rules(objects)
        if owner == role
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


def account_grants(objects: list[Manifest], account: str) -> set[Grant]:
    """By bindings; each role that is bound is one of the same namespace."""
    found: set[Grant] = set()
    for binding in of_kind(objects, "RoleBinding"):
        namespace = binding["metadata"]["namespace"]
        assert binding["roleRef"]["kind"] == "Role"
        for subject in binding["subjects"]:
            assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", namespace)
            if subject["name"] == account:
                found |= grants(objects, binding["roleRef"]["name"])
    return found


def test_nothing_is_granted_by_wildcard(overlay: list[Manifest]) -> None:
    for role, rule in rules(overlay):
        values = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not any("*" in value for value in values), role
        assert "nonResourceURLs" not in rule, role


def test_secrets_are_read_by_name(overlay: list[Manifest]) -> None:
    for role, rule in rules(overlay):
        if any(resource.startswith("secrets") for resource in rule["resources"]):
            assert rule["resourceNames"] == ["crucible-store"], role
            assert rule["verbs"] == ["get"], role


def test_nothing_that_leads_to_more(overlay: list[Manifest]) -> None:
    """Who may do one of these may soon do everything in the namespace."""
    powerful = {"pods/exec", "pods/attach", "pods/ephemeralcontainers", "serviceaccounts/token"}
    for role, rule in rules(overlay):
        assert not powerful & set(rule["resources"]), role
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), role
        if set(rule["verbs"]) & {"create", "update", "patch", "delete"}:
            assert not {"pods", "roles", "rolebindings", "workflows"} & set(rule["resources"]), role


def test_the_runner(overlay: list[Manifest]) -> None:
    assert account_grants(overlay, "crucible-runner") == EXECUTOR | LAUNCHER


def test_the_launcher(overlay: list[Manifest]) -> None:
    expected = EXECUTOR | LAUNCHER | TRAINJOBS | PODS
    assert account_grants(overlay, "crucible-launcher") == expected


def test_people(overlay: list[Manifest]) -> None:
    viewer = grants(overlay, "crucible-viewer")
    assert {verb for *_, verb in viewer} == {"get", "list", "watch", "readArtifact"}
    assert not [grant for grant in viewer if grant[1].startswith("secrets")]
    submit = grants(overlay, "crucible-submit")
    assert {verb for group, *_, verb in submit if group == ""} == {"get", "create"}
    assert ("", "secrets", "crucible-store", "get") in submit


def test_a_submitter_is_a_viewer_who_may_submit(overlay: list[Manifest]) -> None:
    [role] = [r for r in of_kind(overlay, "ClusterRole") if "aggregationRule" in r]
    assert role["metadata"]["name"] == "crucible-submitter"
    assert "rules" not in role  # the controller's; ours would be a conflict at each apply
    [selector] = role["aggregationRule"]["clusterRoleSelectors"]
    aggregated = {
        candidate["metadata"]["name"]
        for candidate in of_kind(overlay, "ClusterRole")
        if selector["matchLabels"].items() <= candidate["metadata"]["labels"].items()
    }
    assert aggregated == {"crucible-viewer", "crucible-submit"}


def test_nobody_is_bound_but_the_accounts_of_steps(overlay: list[Manifest]) -> None:
    assert of_kind(overlay, "ClusterRoleBinding") == []
    names = {binding["metadata"]["name"] for binding in of_kind(overlay, "RoleBinding")}
    assert names == {"crucible-runner", "crucible-launcher"}


def test_accounts_are_those_of_a_context(overlay: list[Manifest]) -> None:
    spec = KubernetesSpec()
    accounts = {object_key(account) for account in of_kind(overlay, "ServiceAccount")}
    assert {key.name for key in accounts} == {spec.service_account, spec.launcher_service_account}
    assert {key.namespace for key in accounts}.isdisjoint({SYSTEM})
    assert StoreSpec(uri="s3://crucible").secret == "crucible-store"


def test_kfps_own_secret_is_an_option(manifests: Path) -> None:
    path = manifests / "components" / "kfp-default-root" / "role.yaml"
    role, binding = yaml.safe_load_all(path.read_text())
    assert grants([role], role["metadata"]["name"]) == {
        ("", "secrets", "mlpipeline-minio-artifact", "get")
    }
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [s["name"] for s in binding["subjects"]] == ["crucible-runner", "crucible-launcher"]
