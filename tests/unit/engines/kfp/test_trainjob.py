"""What the launcher of a step on several nodes is told, and the TrainJob that it makes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from crucible.engines.kfp.compile import compile_plan
from crucible.engines.kfp.trainjob import (
    JobIdentity,
    Owner,
    TrainJobRequest,
    label_value,
    trainjob_json,
    trainjob_manifest,
)
from crucible.errors import UserError
from crucible.plan.model import PlanStep
from crucible.sdk.component import Resources
from crucible.specs.context import ContextDocument
from crucible.testing.custom_resources import CustomSchemas
from crucible.testing.manifests import module_folder
from crucible.testing.plans import make_plan, make_step

from .conftest import IMAGES, Compiled, MakeContext

Json = dict[str, Any]
POOL = "pools: {gpu-train: {queue: gpus, gpu_resource: example.com/gpu}}"
TRAINER = "github.com/kubeflow/trainer/v2"
OWNER = Owner("run-pod", "3c1f")


def wide_step(**fields: Any) -> PlanStep:
    resources = Resources(cpus=8, memory_gib=64, gpus=4, nodes=2, pool="gpu-train")
    component = "crucible.testing.distributed:CountTogether"
    base: Json = {"resources": resources, "image": IMAGES["train"], "timeout_minutes": 90.0}
    return make_step("count", component, **(base | fields))


def manifest(context: ContextDocument, patch_field: Any, **fields: Any) -> Json:
    request = TrainJobRequest.from_json(json.loads(json.dumps(trainjob_json(context, wide_step()))))
    return trainjob_manifest(
        request,
        JobIdentity("run-1", "count", 2),
        OWNER,
        component="some:Component",
        board_prefix="journal/run-1/steps/count/0002/",
        patch_field=patch_field,
        **fields,
    )


def test_the_launcher_gets_a_small_pod_and_the_job_the_rest(
    make_context: MakeContext, compile_it: Any
) -> None:
    compiled: Compiled = compile_it(make_plan(wide_step()), make_context(POOL))
    container, pod = compiled.executor("count"), compiled.kubernetes("count")
    assert container["image"] == IMAGES["cluster"]
    assert "accelerator" not in container["resources"]
    assert container["resources"]["resourceMemoryLimit"] == "768Mi"
    assert "nodeSelector" not in pod
    assert "activeDeadlineSeconds" not in pod  # it would run while the job waits for quota
    assert "kueue.x-k8s.io/queue-name" not in pod["podMetadata"]["labels"]
    told = compiled.constants(compiled.root["count"])["trainjob"]
    request = TrainJobRequest.from_json(told)
    assert (request.nodes, request.processes_per_node, request.queue) == (2, 4, "gpus")
    assert request.image == IMAGES["train"]
    assert request.timeout_seconds == 5400
    memory, gpus = f"{64 * 1024 + 512}Mi", {"example.com/gpu": "4"}
    assert request.resources["limits"] == {"memory": memory, **gpus}
    assert request.resources["requests"] == {"cpu": "8000m", "memory": memory, **gpus}


def test_a_step_on_one_node_has_no_job(make_context: MakeContext, compile_it: Any) -> None:
    compiled: Compiled = compile_it(
        make_plan(make_step("a", "Noop", image=IMAGES["base"])), make_context()
    )
    assert "trainjob" not in compiled.constants(compiled.root["a"])


def test_without_the_launchers_image_it_is_refused(make_context: MakeContext) -> None:
    context = make_context()
    images = {name: image for name, image in context.images.items() if name != "cluster"}
    with pytest.raises(UserError) as caught:
        compile_plan(make_plan(wide_step()), context.model_copy(update={"images": images}))
    [problem] = caught.value.problems
    assert problem.path == "images.cluster"


@pytest.mark.parametrize(
    ("version", "patch_field"),
    [
        ("v2.3.0", "runtimePatches"),
        ("v2.2.0", "runtimePatches"),
        ("v2.0.0", "podSpecOverrides"),
    ],
)
def test_trainers_own_definition_knows_every_field(
    make_context: MakeContext, version: str, patch_field: str
) -> None:
    try:
        folder = module_folder(TRAINER, version) / "manifests/base/crds"
    except FileNotFoundError as error:
        pytest.skip(f"no definitions of TrainJobs: {error}")
    schemas = CustomSchemas.load([folder])
    env = "env: [{name: A, value: b}, {name: C, secret: {name: s, key: k}}]"
    made = manifest(make_context(POOL, env), patch_field)
    assert schemas.problems(made) == []
    made["spec"]["trainer"]["nodes"] = 2
    assert schemas.problems(made) != []


def test_the_job_belongs_to_its_pod_its_run_and_its_queue(make_context: MakeContext) -> None:
    made = manifest(make_context(POOL), "runtimePatches")
    metadata = made["metadata"]
    assert metadata["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "run-pod", "uid": "3c1f"}
    ]
    labels = metadata["labels"]
    assert labels["crucible.dev/run"] == "run-1"
    assert labels["crucible.dev/step"] == "count"
    assert labels["kueue.x-k8s.io/queue-name"] == "gpus"
    [patch] = made["spec"]["runtimePatches"]
    [job] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"crucible.dev/pool": "gpu-train"}
    assert {each["key"] for each in pod["tolerations"]} == {"crucible.dev/pool", "nvidia.com/gpu"}
    shared = next(each for each in pod["volumes"] if each["name"] == "shared-memory")
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "32768Mi"}
    env = {each["name"]: each for each in made["spec"]["trainer"]["env"]}
    assert env["CRUCIBLE_BOARD"]["value"] == "journal/run-1/steps/count/0002/"
    key = {"name": "crucible-store", "key": "AWS_SECRET_ACCESS_KEY"}
    assert env["AWS_SECRET_ACCESS_KEY"]["valueFrom"] == {"secretKeyRef": key}


def test_what_an_old_trainer_cannot_say_is_refused(make_context: MakeContext) -> None:
    context = make_context(POOL, "image_pull_secrets: [registry]")
    with pytest.raises(UserError, match="cannot set imagePullSecrets"):
        manifest(context, "podSpecOverrides")
    with pytest.raises(UserError, match=r"cannot set volumes, .*nodeSelector"):
        manifest(context, None)
    assert "imagePullSecrets" in json.dumps(manifest(context, "podTemplateOverrides"))


@pytest.mark.parametrize(
    ("run_id", "step_id"),
    [
        ("20261126-0412-a1", "train"),
        ("R" * 128, "a-step-with-a-name-that-is-longer-than-any-name-of-a-pod-may-be"),
        ("1.2_3", "trial[12]"),
        ("x", "7up"),
    ],
)
def test_names_are_good_for_kubernetes_and_apart(run_id: str, step_id: str) -> None:
    identity = JobIdentity(run_id, step_id, 1)
    assert len(identity.name) <= 40
    assert identity.name[0].isalpha()
    assert identity.name.replace("-", "").isalnum()
    assert identity.name == identity.name.lower()
    assert identity.name == JobIdentity(run_id, step_id, 1).name
    others = (JobIdentity(run_id, step_id, 2), JobIdentity(f"{run_id}2", step_id, 1))
    assert identity.name not in {other.name for other in others}
    for value in identity.labels.values():
        assert len(value) <= 63
        assert value[0].isalnum()
        assert value[-1].isalnum()


def test_labels_of_long_texts_stay_apart() -> None:
    assert label_value("run-1") == "run-1"
    assert label_value("a" * 70) != label_value("a" * 71)
    assert label_value("a[1]") != label_value("a-1-")


def test_a_parameter_of_another_version_is_refused() -> None:
    with pytest.raises(UserError, match="compiled by another version"):
        TrainJobRequest.from_json({"nodes": 2})
