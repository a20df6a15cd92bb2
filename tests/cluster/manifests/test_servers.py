"""The servers run as the manifests have them on a real kubelet, and answer through Services."""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import minio
import pytest

from crucible.cluster.checks import cluster_findings
from crucible.specs.context import ContextDocument
from crucible.testing.cluster import ClusterFailed
from crucible.testing.manifests import containers, kubectl, of_kind, pod_templates, render
from crucible.testing.server_images import MLFLOW, POSTGRES, debian_image, store_image
from crucible.testing.site import RUNS, SYSTEM, Site, hardened_pod

MANIFESTS = Path(__file__).parents[3] / "manifests"
pytestmark = pytest.mark.slow
CONTEXT = {
    "apiVersion": "crucible/v1",
    "kind": "Context",
    "metadata": {"name": "test"},
    "store": {
        "uri": "s3://crucible/artifacts",
        "endpoint": "http://store.crucible-system.svc.cluster.local:8333",
        "forward": {"service": "store", "port": 8333},
    },
    "mlflow": {
        "uri": "http://mlflow.crucible-system.svc.cluster.local:5000",
        "forward": {"service": "mlflow", "port": 5000},
    },
    "images": {"base": "registry.example/base@sha256:" + "0" * 64},
}
CLIENT = """
import mlflow

mlflow.set_tracking_uri("http://mlflow.crucible-system.svc.cluster.local:5000")
mlflow.set_experiment("quickstart")
with mlflow.start_run() as run:
    mlflow.log_metric("accuracy", 0.5)
    with open("/tmp/report.txt", "w") as report:
        report.write("x" * 100_000)
    mlflow.log_artifact("/tmp/report.txt")
client = mlflow.MlflowClient()
with open(client.download_artifacts(run.info.run_id, "report.txt")) as report:
    assert len(report.read()) == 100_000
client.create_registered_model("vlm")
version = client.create_model_version("vlm", "s3://crucible/artifacts/x", run.info.run_id)
client.set_registered_model_alias("vlm", "champion", version.version)
assert client.get_model_version_by_alias("vlm", "champion").run_id == run.info.run_id
print("all of it worked")
"""


@pytest.fixture(scope="module")
def images() -> dict[str, str]:
    """By workload, in the dev overlay."""
    objects = render(MANIFESTS / "overlays" / "dev")
    return {
        manifest["metadata"]["name"]: containers(template["spec"])[0]["image"]
        for kind in ("StatefulSet", "Deployment")
        for manifest in of_kind(objects, kind)
        for template in pod_templates(manifest)
    }


@pytest.fixture(scope="module")
def running(site: Site, definitions: None, images: dict[str, str]) -> Site:
    """The dev overlay, as it is, once all of it is ready."""
    try:
        archives = [
            store_image(site.cluster.folder, images["store"]),
            debian_image(images["postgres"], POSTGRES),
            debian_image(images["mlflow"], MLFLOW),
        ]
    except FileNotFoundError as error:
        pytest.skip(f"images could not be made: {error}")
    for archive in archives:
        site.cluster.import_image(archive)
    site.install("dev")
    site.make_secrets()
    # They may be waiting long for images that were not there; before they have a volume to spoil.
    site.cluster.kubectl("delete", "pods", "--all", f"--namespace={SYSTEM}", "--now")
    site.give_volume("data-store-0", 1000)
    site.give_volume("data-postgres-0", 999)
    for workload in ("statefulset/store", "statefulset/postgres", "deployment/mlflow"):
        ready(site, workload)
    return site


def ready(site: Site, workload: str) -> None:
    cluster, where = site.cluster, f"--namespace={SYSTEM}"
    try:
        cluster.kubectl("rollout", "status", workload, where, "--timeout=290s")
    except ClusterFailed as failure:
        said = cluster.kubectl("logs", workload, where, "--tail=40")
        pytest.fail(f"{failure}\n{said}", pytrace=False)


def client(site: Site, **keys: str) -> minio.Minio:
    return minio.Minio(site.address("store"), secure=False, region="us-east-1", **keys)


def keys(site: Site) -> dict[str, str]:
    secret = site.secret("crucible-store")
    return {
        "access_key": secret["AWS_ACCESS_KEY_ID"],
        "secret_key": secret["AWS_SECRET_ACCESS_KEY"],
    }


def test_the_store_has_its_bucket_and_keeps_what_it_is_given(running: Site) -> None:
    store = client(running, **keys(running))
    assert [bucket.name for bucket in store.list_buckets()] == ["crucible"]
    content = bytes(range(256)) * 40_000
    store.put_object("crucible", "kept", io.BytesIO(content), len(content))
    running.cluster.kubectl("delete", "pod", "store-0", f"--namespace={SYSTEM}", "--wait")
    ready(running, "statefulset/store")
    # A client of its own: connections of the first lead to a pod that is no more.
    with client(running, **keys(running)).get_object("crucible", "kept") as response:
        assert response.read() == content


def test_the_store_asks_for_keys(running: Site) -> None:
    for stranger in ({}, {"access_key": "a" * 20, "secret_key": "b" * 40}):
        with pytest.raises(minio.error.S3Error):
            list(client(running, **stranger).list_objects("crucible"))
        with pytest.raises(minio.error.S3Error):
            client(running, **stranger).put_object("crucible", "x", io.BytesIO(b"x"), 1)


def test_the_stores_inner_ports_are_closed(running: Site) -> None:
    address = running.cluster.get("pod", "store-0", SYSTEM)["status"]["podIP"]
    assert opens(address, 8333)
    for port in (9333, 19333, 9340, 19340, 8888, 18888, 7333, 8111, 8181, 9101):
        assert not opens(address, port), port


def opens(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=5):
        return True
    return False


def test_a_step_uses_mlflow(running: Site, images: dict[str, str]) -> None:
    """Runs, files and the registry, by the name that contexts have, from the run namespace."""
    pod = hardened_pod("client", image=images["mlflow"], command=["python3", "-c", CLIENT])
    pod["spec"]["containers"][0]["env"] = [
        {"name": "HOME", "value": "/tmp"},
        {"name": "GIT_PYTHON_REFRESH", "value": "quiet"},
    ]
    running.cluster.apply(pod)
    running.cluster.wait(
        "jsonpath={.status.containerStatuses[0].state.terminated}",
        "pod/client",
        namespace=RUNS,
        timeout_seconds=240,
    )
    said = running.cluster.kubectl("logs", "client", f"--namespace={RUNS}")
    running.cluster.kubectl("delete", "pod", "client", f"--namespace={RUNS}", "--now")
    assert said.splitlines()[-1:] == ["all of it worked"], said


def test_mlflow_answers_to_its_names_only(running: Site) -> None:
    host, _, port = running.address("mlflow").partition(":")
    expected = {"mlflow.crucible-system:5000": 200, "127.0.0.1:40123": 200, "evil.example": 403}
    found = {}
    for name in expected:
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        path = "/api/2.0/mlflow/experiments/search?max_results=1"
        connection.request("GET", path, headers={"Host": name})
        found[name] = connection.getresponse().status
        connection.close()
    assert found == expected


def test_nothing_secret_is_logged(running: Site) -> None:
    secrets = {
        *running.secret("crucible-store").values(),
        *running.secret("crucible-postgres", SYSTEM).values(),
    }
    assert len(secrets) == 3
    for workload in ("statefulset/store", "statefulset/postgres", "deployment/mlflow"):
        said = running.cluster.kubectl("logs", workload, f"--namespace={SYSTEM}", "--tail=-1")
        leaked = [value for value in secrets if value in said]
        # SeaweedFS names the identity that it found; the key's name is no secret, its value is.
        assert [v for v in leaked if v != keys(running)["access_key"]] == [], workload


def test_doctor_finds_nothing_wrong_with_it(running: Site) -> None:
    """As somebody with the roles of the README and no other right."""
    roles = {
        RUNS: ["crucible-submitter", "crucible-port-forward"],
        SYSTEM: ["crucible-port-forward"],
    }
    for namespace, names in roles.items():
        for role in names:
            running.cluster.kubectl(
                "create", "rolebinding", f"erin-{role}", f"--clusterrole={role}", "--user=erin",
                f"--namespace={namespace}",
            )  # fmt: skip
    kubeconfig = running.cluster.user_kubeconfig("erin")
    context = ContextDocument.model_validate(
        {
            **CONTEXT,
            "kubernetes": {"namespace": RUNS, "kubeconfig": str(kubeconfig)},
        }
    )
    found = {finding.name: finding for finding in cluster_findings(context, {})}
    ours = {"kubernetes", "namespace", "rights", "service account", "store", "mlflow"}
    assert {name: found[name] for name in ours if not found[name].passed} == {}


def test_a_port_forward_with_the_role_for_it(running: Site) -> None:
    running.cluster.kubectl(
        "create", "rolebinding", "dora", "--clusterrole=crucible-port-forward", "--user=dora",
        f"--namespace={SYSTEM}",
    )  # fmt: skip
    dora = running.cluster.with_kubeconfig(running.cluster.user_kubeconfig("dora"))
    with forward(dora.environ, "mlflow", 5000) as port:
        connection = http.client.HTTPConnection("localhost", port, timeout=30)
        connection.request("GET", "/api/2.0/mlflow/experiments/search?max_results=1")
        assert connection.getresponse().status == 200
        connection.close()


@contextlib.contextmanager
def forward(environ: dict[str, str], service: str, port: int) -> Iterator[int]:
    process = subprocess.Popen(
        [kubectl(), "port-forward", f"service/{service}", f":{port}", f"--namespace={SYSTEM}"],
        env={**environ, "HOME": "/nonexistent"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        match = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert match
        yield int(match[1])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
