"""Every pod that we define: hardened, bounded, probed, pinned, no secret in plain text."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from crucible.testing.manifests import (
    Manifest,
    containers,
    of_kind,
    pod_templates,
    restricted_violations,
)

PINNED = re.compile(r"^[\w.-]+\.\w+(/[\w.-]+)+(:(?!latest)[\w.-]*\d[\w.-]*|@sha256:[0-9a-f]{64})$")
SERVERS = ("Deployment", "StatefulSet")


def pods(objects: list[Manifest]) -> dict[str, Manifest]:
    return {
        f"{manifest['kind']} {manifest['metadata']['name']}": template["spec"]
        for manifest in objects
        for template in pod_templates(manifest)
    }


def servers(objects: list[Manifest]) -> dict[str, Manifest]:
    return {name: pod for name, pod in pods(objects).items() if name.split()[0] in SERVERS}


def test_what_runs(gpu: list[Manifest]) -> None:
    names = {"StatefulSet store", "StatefulSet postgres", "Deployment mlflow"}
    assert set(pods(gpu)) == names | {"ClusterTrainingRuntime crucible-torch"}


def test_restricted(overlay: list[Manifest]) -> None:
    problems = {name: restricted_violations(pod) for name, pod in pods(overlay).items()}
    assert {name: found for name, found in problems.items() if found} == {}


BREAKS: list[tuple[tuple[str, ...], Any]] = [
    (("securityContext", "runAsNonRoot"), False),
    (("securityContext", "runAsUser"), 0),
    (("securityContext", "seccompProfile", "type"), "Unconfined"),
    (("containers", "0", "securityContext", "allowPrivilegeEscalation"), True),
    (("containers", "0", "securityContext", "privileged"), True),
    (("containers", "0", "securityContext", "capabilities", "drop"), []),
    (("containers", "0", "securityContext", "capabilities", "add"), ["SYS_ADMIN"]),
    (("containers", "0", "ports"), [{"hostPort": 80}]),
    (("volumes",), [{"name": "node", "hostPath": {"path": "/"}}]),
    (("hostNetwork",), True),
]


@pytest.mark.parametrize(("path", "value"), BREAKS, ids=lambda part: str(part))
def test_a_weaker_pod_is_noticed(gpu: list[Manifest], path: tuple[str, ...], value: Any) -> None:
    pod = copy.deepcopy(pods(gpu)["StatefulSet store"])
    holder: Any = pod
    for step in path[:-1]:
        holder = holder[int(step) if step.isdigit() else step]
    holder[path[-1]] = value
    assert len(restricted_violations(pod)) == 1


def test_no_token_and_no_environment_of_services(overlay: list[Manifest]) -> None:
    for name, pod in pods(overlay).items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name


def test_servers_cannot_write_to_their_image(overlay: list[Manifest]) -> None:
    for name, pod in servers(overlay).items():
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name


def test_servers_are_bounded(overlay: list[Manifest]) -> None:
    for name, pod in servers(overlay).items():
        for container in containers(pod):
            resources = container["resources"]
            assert set(resources["requests"]) == {"cpu", "memory"}, name
            assert "memory" in resources["limits"], name
        for volume in pod["volumes"]:
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"], name


def test_servers_are_probed(overlay: list[Manifest]) -> None:
    for name, pod in servers(overlay).items():
        for container in containers(pod):
            probes = {"startupProbe", "readinessProbe", "livenessProbe"}
            assert probes <= set(container), name


def test_images_are_pinned(overlay: list[Manifest]) -> None:
    images = [c["image"] for pod in servers(overlay).values() for c in containers(pod)]
    assert len(images) == 3
    assert [image for image in images if not PINNED.match(image)] == []


@pytest.mark.parametrize("image", ["postgres:17", "docker.io/a/b", "ghcr.io/a/b:latest"])
def test_a_floating_image_is_noticed(image: str) -> None:
    assert not PINNED.match(image)


def test_trainjobs_bring_their_image(gpu: list[Manifest]) -> None:
    """One in the runtime would be used where a job forgets to name its own."""
    assert "image" not in pods(gpu)["ClusterTrainingRuntime crucible-torch"]["containers"][0]


def test_no_secret_is_in_the_repository(manifests: Path, overlay: list[Manifest]) -> None:
    assert of_kind(overlay, "Secret") == []
    for path in manifests.glob("**/*.yaml"):
        assert "secretGenerator" not in path.read_text(), path


def test_passwords_come_from_secrets(overlay: list[Manifest]) -> None:
    secretive = re.compile(r"PASSWORD$|SECRET|ACCESS_KEY")
    seen = 0
    for pod in pods(overlay).values():
        for container in containers(pod):
            for variable in container.get("env", []):
                if secretive.search(variable["name"]):
                    assert "secretKeyRef" in variable["valueFrom"], variable["name"]
                    seen += 1
    assert seen == 5


def test_the_store_is_not_open(overlay: list[Manifest]) -> None:
    """Without keys SeaweedFS serves everybody; its other ports never ask."""
    [container] = pods(overlay)["StatefulSet store"]["containers"]
    assert {v["name"] for v in container["env"]} == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    arguments = container["args"]
    assert "-ip.bind=127.0.0.1" in arguments
    assert [a for a in arguments if "0.0.0.0" in a] == ["-s3.ip.bind=0.0.0.0"]
    assert {port["containerPort"] for port in container["ports"]} == {8333}
