"""A stand-in for the Kubernetes API, and connections to it that give up soon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from crucible.cluster import Connection, Patience, connect
from crucible.sdk.retry import Backoff
from crucible.specs.context import KubernetesSpec
from crucible.testing.kube_api import KubeApi, kube_api

PODS = "/api/v1/namespaces/runs/pods"
QUICK = Patience(
    budget_seconds=5.0,
    connect_seconds=1.0,
    read_seconds=2.0,
    backoff=Backoff(first_seconds=0.02, max_seconds=0.2),
)


def kubeconfig(server: str, *, user: dict[str, object] | None = None, **cluster: object) -> str:
    return yaml.safe_dump({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "jane", "user": user or {"token": "secret"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "jane"}}],
    })  # fmt: skip


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with kube_api() as running:
        yield running


@pytest.fixture
def connect_to(tmp_path: Path) -> Iterator[Callable[..., Connection]]:
    made = []

    def call(server: str, *, patience: Patience = QUICK, **fields: object) -> Connection:
        path = tmp_path / "kubeconfig"
        path.write_text(kubeconfig(server, **fields))
        spec = KubernetesSpec(kubeconfig=str(path), namespace="runs")
        made.append(connect(spec, patience=patience))
        return made[-1]

    yield call
    for connection in made:
        connection.close()


@pytest.fixture
def connection(api: KubeApi, connect_to: Callable[..., Connection]) -> Connection:
    return connect_to(api.url)


@pytest.fixture
def pod() -> Callable[..., dict[str, object]]:
    def make(name: str, phase: str = "Running", **fields: object) -> dict[str, object]:
        state = {"Pending": "waiting", "Running": "running"}.get(phase, "terminated")
        return {
            "metadata": {"name": name, "labels": {"run": "a"}},
            "spec": {"containers": [{"name": "main"}], "restartPolicy": "Never"},
            "status": {
                "phase": phase,
                "containerStatuses": [{"name": "main", "state": {state: {}}}],
                **fields,
            },
        }

    return make
