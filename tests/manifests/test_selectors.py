"""What refers to something refers to something that exists."""

from __future__ import annotations

from typing import Any

from crucible.testing.manifests import Manifest, containers, of_kind, pod_templates
from crucible.testing.network_policy import matches

SECRETS = {
    "crucible-store": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"},
    "crucible-postgres": {"password"},
}
"""What manifests/secrets.sh makes."""


def workloads(objects: list[Manifest], namespace: str) -> dict[str, Manifest]:
    return {
        manifest["metadata"]["name"]: template
        for kind in ("Deployment", "StatefulSet")
        for manifest in of_kind(objects, kind)
        if manifest["metadata"]["namespace"] == namespace
        for template in pod_templates(manifest)
    }


def selected(
    objects: list[Manifest], namespace: str, selector: dict[str, Any]
) -> dict[str, Manifest]:
    found = workloads(objects, namespace).items()
    return {name: pod for name, pod in found if matches(selector, pod["metadata"]["labels"])}


def ports(template: Manifest) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for container in template["spec"]["containers"]
        for port in container["ports"]
    }


def test_services_lead_to_one_workload_and_an_open_port(overlay: list[Manifest]) -> None:
    services = of_kind(overlay, "Service")
    assert {service["metadata"]["name"] for service in services} == {"store", "postgres", "mlflow"}
    for service in services:
        metadata, spec = service["metadata"], service["spec"]
        found = selected(overlay, metadata["namespace"], {"matchLabels": spec["selector"]})
        assert set(found) == {metadata["name"]}
        for port in spec["ports"]:
            assert ports(found[metadata["name"]])[port["targetPort"]] == port["port"]


def test_workloads_select_their_own_pods(overlay: list[Manifest]) -> None:
    for kind in ("Deployment", "StatefulSet"):
        for manifest in of_kind(overlay, kind):
            metadata = manifest["metadata"]
            found = selected(overlay, metadata["namespace"], manifest["spec"]["selector"])
            assert set(found) == {metadata["name"]}


def test_stateful_sets_name_their_service(overlay: list[Manifest]) -> None:
    services = {service["metadata"]["name"] for service in of_kind(overlay, "Service")}
    assert {s["spec"]["serviceName"] for s in of_kind(overlay, "StatefulSet")} <= services


def test_budgets_and_policies_select_something(overlay: list[Manifest]) -> None:
    [budget] = of_kind(overlay, "PodDisruptionBudget")
    assert set(selected(overlay, "crucible-system", budget["spec"]["selector"])) == {"mlflow"}
    assert budget["spec"]["maxUnavailable"] == 1  # 0, or minAvailable, would block a drain
    for policy in of_kind(overlay, "NetworkPolicy"):
        name, namespace = policy["metadata"]["name"], policy["metadata"]["namespace"]
        if namespace == "crucible-system" and name != "default-deny":
            assert set(selected(overlay, namespace, policy["spec"]["podSelector"])) == {name}


def test_named_ports_and_mounts_exist(overlay: list[Manifest]) -> None:
    for template in workloads(overlay, "crucible-system").values():
        claims = {
            claim["metadata"]["name"]
            for owner in of_kind(overlay, "StatefulSet")
            for claim in owner["spec"]["volumeClaimTemplates"]
        }
        volumes = {volume["name"] for volume in template["spec"]["volumes"]} | claims
        for container in containers(template["spec"]):
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if "httpGet" in container[probe]:
                    assert container[probe]["httpGet"]["port"] in ports(template)


def test_secrets_that_are_used_are_those_that_are_made(overlay: list[Manifest]) -> None:
    used: dict[str, set[str]] = {}
    for template in workloads(overlay, "crucible-system").values():
        for container in containers(template["spec"]):
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    used.setdefault(reference["name"], set()).add(reference["key"])
    assert used == SECRETS


def test_mlflow_answers_to_its_service(overlay: list[Manifest]) -> None:
    [container] = workloads(overlay, "crucible-system")["mlflow"]["spec"]["containers"]
    [hosts] = [v for v in container["env"] if v["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS"]
    names = {host.strip() for host in hosts["value"].split(",")}
    for name in ("mlflow", "mlflow.crucible-system", "mlflow.crucible-system.svc.cluster.local"):
        assert {name, f"{name}:5000"} <= names
    assert {"localhost:*", "127.0.0.1:*"} <= names
    assert "*" not in names


def test_priorities(overlay: list[Manifest]) -> None:
    classes = {c["metadata"]["name"]: c for c in of_kind(overlay, "PriorityClass")}
    order = ["crucible-training", "crucible-interactive", "crucible-serving"]
    assert sorted(classes, key=lambda name: int(classes[name]["value"])) == order
    assert classes["crucible-training"]["preemptionPolicy"] == "Never"
    assert not any(c.get("globalDefault") for c in classes.values())
    for runtime in of_kind(overlay, "ClusterTrainingRuntime"):
        for template in pod_templates(runtime):
            assert template["spec"]["priorityClassName"] in classes
