"""Rights as the API server grants them to real tokens and certificates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import yaml
from kubernetes.client import ApiClient, AuthorizationV1Api, Configuration, CustomObjectsApi
from kubernetes.config import load_kube_config

from crucible.testing.cluster import Cluster, ClusterFailed
from crucible.testing.site import RUNS, SYSTEM, Site

TASK_RESULT = {
    "apiVersion": "argoproj.io/v1alpha1",
    "kind": "WorkflowTaskResult",
    "metadata": {"generateName": "quickstart-", "namespace": RUNS},
}
TRAIN_JOB = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1",
    "kind": "TrainJob",
    "metadata": {"name": "align", "namespace": RUNS},
    "spec": {
        "runtimeRef": {"name": "crucible-torch"},
        "trainer": {
            "image": "registry.example/train@sha256:" + "0" * 64,
            "numNodes": 2,
            "resourcesPerNode": {"limits": {"nvidia.com/gpu": 8}},
        },
    },
}


@pytest.fixture(scope="module", autouse=True)
def installed(site: Site, definitions: None) -> None:
    site.install("gpu")
    site.make_secrets()
    site.cluster.kubectl(
        "create", "secret", "generic", "of-somebody-else", "--from-literal=key=value",
        f"--namespace={RUNS}",
    )  # fmt: skip


@pytest.fixture(scope="module")
def runner(site: Site) -> Cluster:
    return account(site, "crucible-runner")


@pytest.fixture(scope="module")
def launcher(site: Site) -> Cluster:
    return account(site, "crucible-launcher")


def account(site: Site, name: str) -> Cluster:
    return site.cluster.with_kubeconfig(site.cluster.account_kubeconfig(name, RUNS))


@contextlib.contextmanager
def signed_in(who: Cluster) -> Iterator[ApiClient]:
    """A client that goes straight to the API server."""
    settings = Configuration()
    load_kube_config(str(who.kubeconfig), client_configuration=settings)
    settings.proxy = None
    with ApiClient(settings) as client:
        yield client


def may(who: Cluster, verb: str, what: str, name: str = "", namespace: str = RUNS) -> bool:
    """Ask the API server; ``what`` is RESOURCE[.GROUP][/SUBRESOURCE]."""
    resource, _, subresource = what.partition("/")
    plural, _, group = resource.partition(".")
    asked = {"verb": verb, "group": group, "resource": plural, "subresource": subresource}
    review = {"spec": {"resourceAttributes": {**asked, "name": name, "namespace": namespace}}}
    with signed_in(who) as client:
        answer = AuthorizationV1Api(client).create_self_subject_access_review(review)
    return bool(answer.status.allowed)


ALLOWED = [
    ("create", "workflowtaskresults.argoproj.io"),
    ("patch", "workflowtaskresults.argoproj.io", "any"),
    ("get", "configmaps", "kfp-launcher"),
    ("get", "secrets", "crucible-store"),
]
REFUSED = [
    ("get", "secrets"),
    ("list", "secrets"),
    ("watch", "secrets"),
    ("get", "secrets", "of-somebody-else"),
    ("get", "secrets", "mlpipeline-minio-artifact"),
    ("update", "secrets", "crucible-store"),
    ("get", "configmaps", "workflow-controller-configmap"),
    ("create", "pods"),
    ("get", "pods"),
    ("create", "pods/exec"),
    ("get", "workflowtaskresults.argoproj.io"),
    ("patch", "workflows.argoproj.io"),
    ("create", "jobs.batch"),
    ("create", "serviceaccounts/token"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
]
OF_JOBS = [
    ("create", "trainjobs.trainer.kubeflow.org"),
    ("get", "trainjobs.trainer.kubeflow.org", "any"),
    ("watch", "trainjobs.trainer.kubeflow.org"),
    ("delete", "trainjobs.trainer.kubeflow.org", "any"),
    ("list", "pods"),
    ("get", "pods", "any"),
    ("get", "pods/log"),
]


def test_the_runner(runner: Cluster) -> None:
    assert [entry for entry in ALLOWED if not may(runner, *entry)] == []
    assert [entry for entry in [*REFUSED, *OF_JOBS] if may(runner, *entry)] == []


def test_the_launcher(launcher: Cluster) -> None:
    assert [entry for entry in [*ALLOWED, *OF_JOBS] if not may(launcher, *entry)] == []
    own = {("get", "pods")}
    assert [entry for entry in REFUSED if entry not in own and may(launcher, *entry)] == []


@pytest.mark.parametrize("namespace", [SYSTEM, "kube-system", "team-a"])
def test_steps_have_no_rights_elsewhere(launcher: Cluster, namespace: str) -> None:
    for entry in [*ALLOWED, *OF_JOBS]:
        assert not may(launcher, *entry, namespace=namespace), entry


def test_the_runner_reads_one_secret(runner: Cluster) -> None:
    assert runner.get("secret", "crucible-store", RUNS)["data"]
    for name in ("of-somebody-else", "mlpipeline-minio-artifact"):
        with pytest.raises(ClusterFailed, match="Forbidden"):
            runner.get("secret", name, RUNS)
    with pytest.raises(ClusterFailed, match="Forbidden"):
        runner.kubectl("get", "secrets", f"--namespace={RUNS}")


def test_a_step_reports_its_result(runner: Cluster) -> None:
    place = {"group": "argoproj.io", "version": "v1alpha1", "plural": "workflowtaskresults"}
    with signed_in(runner) as client:
        api = CustomObjectsApi(client)
        made = api.create_namespaced_custom_object(**place, namespace=RUNS, body=TASK_RESULT)
        changed = api.patch_namespaced_custom_object(
            **place, namespace=RUNS, name=made["metadata"]["name"], body={"phase": "Succeeded"}
        )
    assert changed["phase"] == "Succeeded"


def test_only_the_launcher_starts_jobs(runner: Cluster, launcher: Cluster) -> None:
    text = yaml.safe_dump(TRAIN_JOB)
    with pytest.raises(ClusterFailed, match="Forbidden"):
        runner.kubectl("create", "-f", "-", text=text)
    launcher.kubectl("create", "-f", "-", text=text)
    assert launcher.get("trainjob", "align", RUNS)["spec"]["trainer"]["numNodes"] == 2
    launcher.kubectl("delete", "trainjob", "align", f"--namespace={RUNS}")


def bind(site: Site, user: str, role: str, namespace: str = RUNS) -> Cluster:
    site.cluster.kubectl(
        "create", "rolebinding", f"{user}-{role}", f"--clusterrole={role}", f"--user={user}",
        f"--namespace={namespace}",
    )  # fmt: skip
    return site.cluster.with_kubeconfig(site.cluster.user_kubeconfig(user))


def test_a_submitter(site: Site) -> None:
    alice = bind(site, "alice", "crucible-submitter")
    for entry in [
        ("create", "runs.pipelines.kubeflow.org"),
        ("terminate", "runs.pipelines.kubeflow.org"),
        ("get", "pods/log"),
        ("watch", "workflows.argoproj.io"),
        ("get", "secrets", "crucible-store"),
    ]:
        assert may(alice, *entry), entry
    for entry in [
        ("get", "secrets", "of-somebody-else"),
        ("list", "secrets"),
        ("create", "pods/exec"),
        ("create", "pods/portforward"),
        ("get", "services/proxy"),
        ("delete", "pods"),
        ("create", "trainjobs.trainer.kubeflow.org"),
        ("patch", "workflows.argoproj.io"),
    ]:
        assert not may(alice, *entry), entry
    assert not may(alice, "get", "pods/log", namespace=SYSTEM)


def test_a_viewer(site: Site) -> None:
    bob = bind(site, "bob", "crucible-viewer")
    assert may(bob, "get", "pods/log")
    assert may(bob, "list", "trainjobs.trainer.kubeflow.org")
    for entry in [
        ("get", "secrets", "crucible-store"),
        ("create", "runs.pipelines.kubeflow.org"),
        ("create", "pods"),
    ]:
        assert not may(bob, *entry), entry


def test_a_viewer_of_the_cluster(site: Site) -> None:
    site.cluster.kubectl(
        "create", "clusterrolebinding", "carol", "--clusterrole=crucible-cluster-viewer",
        "--user=carol",
    )  # fmt: skip
    carol = site.cluster.with_kubeconfig(site.cluster.user_kubeconfig("carol"))
    assert carol.kubectl("get", "nodes", "--output=name").strip()
    assert "crucible" in carol.kubectl("get", "clusterqueues", "--output=name")
    assert not may(carol, "get", "pods")
    assert not may(carol, "delete", "nodes")
