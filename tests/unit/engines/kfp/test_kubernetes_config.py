from collections.abc import Callable

from crucible.plan import Plan
from crucible.plan.model import Retry
from crucible.sdk.component import Resources
from crucible.testing.plans import make_plan, make_step

from .conftest import Compiled, MakeContext

Compile = Callable[..., Compiled]


def step_in(pool: str, **resources: object) -> Plan:
    return make_plan(
        make_step("a", "Noop", resources=Resources(memory_gib=8.0, pool=pool, **resources)),  # type: ignore[arg-type]
    )


def test_cpu_steps_go_anywhere(make_context: MakeContext, compile_it: Compile) -> None:
    config = compile_it(step_in("cpu"), make_context()).kubernetes("a")
    assert "nodeSelector" not in config
    assert "tolerations" not in config
    assert config["emptyDirMounts"] == [{"volumeName": "scratch", "mountPath": "/scratch"}]


def test_a_pool_is_a_label_a_taint_and_gpus_by_convention(
    make_context: MakeContext, compile_it: Compile
) -> None:
    compiled = compile_it(step_in("gpu-train", gpus=4), make_context())
    config = compiled.kubernetes("a")
    assert config["nodeSelector"] == {"labels": {"crucible.dev/pool": "gpu-train"}}
    assert config["tolerations"] == [
        {
            "key": "crucible.dev/pool",
            "operator": "Equal",
            "value": "gpu-train",
            "effect": "NoSchedule",
        },
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
    ]
    assert config["emptyDirMounts"][1] == {
        "volumeName": "shm",
        "mountPath": "/dev/shm",
        "medium": "Memory",
        "sizeLimit": "4096Mi",
    }
    assert compiled.executor("a")["resources"]["accelerator"] == {
        "type": "nvidia.com/gpu",
        "count": "4",
        "resourceType": "nvidia.com/gpu",
        "resourceCount": "4",
    }
    assert "kueue.x-k8s.io/queue-name" not in config["podMetadata"]["labels"]


def test_a_context_says_how_its_pools_are_reached(
    make_context: MakeContext, compile_it: Compile
) -> None:
    context = make_context(
        "pools:",
        "  gpu-train:",
        "    node_selector: {cloud.google.com/gke-nodepool: a3}",
        "    tolerations: []",
        "    gpu_resource: amd.com/gpu",
        "    shared_memory_gib: 64",
        "    queue: team",
    )
    compiled = compile_it(step_in("gpu-train", gpus=8), context)
    config = compiled.kubernetes("a")
    assert config["nodeSelector"] == {"labels": {"cloud.google.com/gke-nodepool": "a3"}}
    assert "tolerations" not in config
    assert config["emptyDirMounts"][1]["sizeLimit"] == "65536Mi"
    assert config["podMetadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert compiled.executor("a")["resources"]["accelerator"]["type"] == "amd.com/gpu"


def test_secrets_and_config_come_by_reference(
    make_context: MakeContext, compile_it: Compile
) -> None:
    context = make_context(
        "image_pull_secrets: [registry]",
        "env:",
        "  - {name: HF_TOKEN, secret: {name: hub, key: token}}",
        "  - {name: PROXY, config_map: {name: net, key: proxy}}",
        "  - {name: MODE, value: strict}",
    )
    compiled = compile_it(step_in("cpu"), context)
    config = compiled.kubernetes("a")
    named = {
        pair["envVar"]: (secret["secretName"], pair["secretKey"])
        for secret in config["secretAsEnv"]
        for pair in secret["keyToEnv"]
    }
    assert named == {
        "AWS_ACCESS_KEY_ID": ("crucible-store", "AWS_ACCESS_KEY_ID"),
        "AWS_SECRET_ACCESS_KEY": ("crucible-store", "AWS_SECRET_ACCESS_KEY"),
        "HF_TOKEN": ("hub", "token"),
    }
    (from_config,) = config["configMapAsEnv"]
    assert from_config["configMapName"] == "net"
    assert from_config["keyToEnv"] == [{"configMapKey": "proxy", "envVar": "PROXY"}]
    assert config["imagePullSecret"] == [{"secretName": "registry"}]
    plain = {entry["name"]: entry["value"] for entry in compiled.executor("a")["env"]}
    assert plain["MODE"] == "strict"
    assert plain["CRUCIBLE_STORE"] == "s3://crucible/store"


def test_a_pod_is_no_root_and_ends_in_time(make_context: MakeContext, compile_it: Compile) -> None:
    retry = Retry(limit=2, max_backoff_seconds=60.0)
    plan = make_plan(make_step("a", "Noop", timeout_minutes=1.5, retry=retry))
    config = compile_it(plan, make_context()).kubernetes("a")
    assert config["securityContext"] == {
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "runAsNonRoot": True,
    }
    # The pod ends the step itself, at each try; Kubernetes only a pod that could not.
    assert config["activeDeadlineSeconds"] == 1800 + 3 * (90 + 60) + 2 * 60
    assert config["podMetadata"]["labels"]["crucible.dev/step"] == "a"


def test_memory_is_bounded_and_cpu_is_not(make_context: MakeContext, compile_it: Compile) -> None:
    resources = compile_it(step_in("cpu", cpus=1.5), make_context()).executor("a")["resources"]
    assert resources["resourceMemoryLimit"] == resources["resourceMemoryRequest"] == "8704Mi"
    assert resources["resourceCpuRequest"] == "1500m"
    assert "cpuLimit" not in resources
