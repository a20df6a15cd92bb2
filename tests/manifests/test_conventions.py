"""What manifests, context files and the engine must agree on: names, pools, queues, quotas."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from crucible.engines.kfp.trainjob import SHARED_MEMORY
from crucible.specs.context import PoolSpec, TrainerSpec, load_context
from crucible.testing.manifests import Manifest, of_kind, pod_templates, render

GPU_POOLS = {"gpu-train", "gpu-eval", "gpu-serve"}
POOL = "crucible.dev/pool"
GPU = PoolSpec().gpu_resource
CPU, MEMORY = "requests.cpu", "requests.memory"
KFP = {"pods": Decimal(14), CPU: Decimal("1.024"), MEMORY: Decimal(3574 * 2**20)}
"""What the pods of Kubeflow Pipelines 2.17 with Argo and its stores request in its namespace, with
the defaults of our LimitRange for those containers that request nothing."""
STEP = {"pods": Decimal(2), CPU: Decimal("0.3"), MEMORY: Decimal(512 * 2**20)}
"""Of one running step beside what it asks for: KFP's driver or launcher, Argo's executor."""


def quantity(value: str) -> Decimal:
    suffixes = {"m": Decimal("0.001"), "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    for suffix, factor in suffixes.items():
        if value.endswith(suffix):
            return Decimal(value.removesuffix(suffix)) * factor
    return Decimal(value)


def queue(objects: list[Manifest]) -> dict[str, Any]:
    [found] = of_kind(objects, "ClusterQueue")
    spec: dict[str, Any] = found["spec"]
    return spec


def test_flavors_are_the_gpu_pools(gpu: list[Manifest]) -> None:
    """The selector and taint that `PoolSpec` documents, so that Kueue's pods land there."""
    flavors = {
        flavor["metadata"]["name"]: flavor["spec"] for flavor in of_kind(gpu, "ResourceFlavor")
    }
    assert set(flavors) == GPU_POOLS
    for pool, spec in flavors.items():
        assert spec["nodeLabels"] == {POOL: pool}
        taint = {"key": POOL, "operator": "Equal", "value": pool, "effect": "NoSchedule"}
        assert taint in spec["tolerations"]
        assert any(toleration["key"] == GPU for toleration in spec["tolerations"])


def test_the_queue_covers_each_pool_once(gpu: list[Manifest]) -> None:
    [group] = queue(gpu)["resourceGroups"]
    assert set(group["coveredResources"]) == {"cpu", "memory", GPU}
    assert [flavor["name"] for flavor in group["flavors"]] == ["gpu-train", "gpu-eval", "gpu-serve"]
    for flavor in group["flavors"]:
        assert [r["name"] for r in flavor["resources"]] == group["coveredResources"]
    [local] = of_kind(gpu, "LocalQueue")
    assert local["metadata"]["name"] == local["spec"]["clusterQueue"] == "crucible"
    accounts = {a["metadata"]["namespace"] for a in of_kind(gpu, "ServiceAccount")}
    assert accounts == {local["metadata"]["namespace"]}
    [selector] = queue(gpu)["namespaceSelector"]["matchExpressions"]
    assert set(selector["values"]) == accounts


def test_the_quota_admits_what_the_queue_admits(gpu: list[Manifest]) -> None:
    """Else Kueue admits a job whose pods are then refused."""
    [quota] = of_kind(gpu, "ResourceQuota")
    [group] = queue(gpu)["resourceGroups"]
    for name in group["coveredResources"]:
        total = sum(
            quantity(resource["nominalQuota"])
            for flavor in group["flavors"]
            for resource in flavor["resources"]
            if resource["name"] == name
        )
        own = KFP.get(f"requests.{name}", Decimal(0))
        assert quantity(quota["spec"]["hard"][f"requests.{name}"]) >= total + own, name


def test_the_quota_leaves_room_beside_kfp(overlay: list[Manifest]) -> None:
    """Ten small steps at once (1 CPU, 2 GiB each), with KFP's own pods in the namespace."""
    [quota] = of_kind(overlay, "ResourceQuota")
    asked = {"pods": Decimal(0), CPU: Decimal(1), MEMORY: Decimal(2 * 2**30)}
    for name, own in KFP.items():
        assert quantity(quota["spec"]["hard"][name]) >= own + 10 * (STEP[name] + asked[name]), name


def test_every_container_passes_the_quota(overlay: list[Manifest]) -> None:
    """A quota on requests refuses containers without; a default limit would refuse KFP's MySQL."""
    [limits] = of_kind(overlay, "LimitRange")
    [quota] = of_kind(overlay, "ResourceQuota")
    [container] = limits["spec"]["limits"]
    assert set(container) == {"type", "defaultRequest"}
    bounded = {name for name in quota["spec"]["hard"] if name in (CPU, MEMORY)}
    assert {f"requests.{name}" for name in container["defaultRequest"]} == bounded == {CPU, MEMORY}
    assert not any(name.startswith("limits.") for name in quota["spec"]["hard"])


def test_the_runtime_is_the_one_of_a_context(gpu: list[Manifest]) -> None:
    [runtime] = of_kind(gpu, "ClusterTrainingRuntime")
    assert runtime["metadata"]["name"] == TrainerSpec().runtime
    assert runtime["metadata"]["labels"]["trainer.kubeflow.org/framework"] == "torch"
    [job] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    labels = job["template"]["metadata"]["labels"]
    assert labels == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    assert job["name"] == job["template"]["spec"]["template"]["spec"]["containers"][0]["name"]


def test_the_engine_sizes_the_runtimes_shared_memory(gpu: list[Manifest]) -> None:
    """It changes the volume of this name; another one would be a second mount at /dev/shm."""
    [runtime] = of_kind(gpu, "ClusterTrainingRuntime")
    [template] = pod_templates(runtime)
    [volume] = template["spec"]["volumes"]
    [mount] = template["spec"]["containers"][0]["volumeMounts"]
    assert mount == {"name": SHARED_MEMORY, "mountPath": "/dev/shm"}
    assert volume == {"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory"}}


def test_trainers_are_selected_by_their_policies(gpu: list[Manifest]) -> None:
    [runtime] = of_kind(gpu, "ClusterTrainingRuntime")
    [template] = pod_templates(runtime)
    assert template["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "crucible"


def test_the_launchers_config_leads_to_our_store(overlay: list[Manifest]) -> None:
    [config] = of_kind(overlay, "ConfigMap")
    default = yaml.safe_load(config["data"]["providers"])["s3"]["default"]
    assert default["endpoint"] == "http://store.crucible-system.svc.cluster.local:8333"
    assert default["forcePathStyle"] is True
    assert default["credentials"]["secretRef"] == {
        "secretName": "crucible-store",
        "accessKeyKey": "AWS_ACCESS_KEY_ID",
        "secretKeyKey": "AWS_SECRET_ACCESS_KEY",
    }


def test_another_namespace(manifests: Path) -> None:
    """The profile overlay has steps where it says, and nothing in KFP's namespace."""
    objects = render(manifests / "overlays" / "profile")
    namespaces = {m["metadata"].get("namespace") for m in objects}
    assert namespaces == {None, "crucible-system", "team-a"}
    for name in ("store", "mlflow"):
        [policy] = [p for p in of_kind(objects, "NetworkPolicy") if p["metadata"]["name"] == name]
        source = policy["spec"]["ingress"][0]["from"][0]["namespaceSelector"]
        assert source["matchExpressions"][0]["values"] == ["team-a"]


def test_the_context_of_the_readme(tmp_path: Path, manifests: Path, gpu: list[Manifest]) -> None:
    [shown] = [
        block
        for block in re.findall(r"```yaml\n(.*?)```", (manifests / "README.md").read_text(), re.S)
        if "kind: Context" in block
    ]
    path = tmp_path / "context.yaml"
    path.write_text(shown.replace("DIGEST", "0" * 64))
    context = load_context(path)
    services = {
        f"http://{s['metadata']['name']}.{s['metadata']['namespace']}.svc.cluster.local"
        f":{s['spec']['ports'][0]['port']}"
        for s in of_kind(gpu, "Service")
    }
    assert context.mlflow is not None
    assert {context.store.endpoint, context.mlflow.uri} <= services
    for forward in (context.store.forward, context.mlflow.forward):
        assert forward is not None
        assert f"http://{forward.service}.{forward.namespace}.svc.cluster.local:{forward.port}" in (
            services
        )
    assert str(context.pipelines.root).startswith("s3://crucible/")
