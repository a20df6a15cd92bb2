"""How long until 1,000 GPU pods of a fan-out are bound to 200 simulated nodes.

A real API server and scheduler, and 200 simulated nodes of 8 GPUs. The pods are those that a
compiled pipeline asks for (pool, tolerations, GPUs, labels); they are created as fast as one client
can, as Argo's controller would, and watched by one list and one watch; a change is one event of it.
There is no peer: the figure is what Kubernetes itself takes.
Needs what the tests of the cluster need: root, Go and some Debian packages.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from crucible.cluster.connection import Connection, connect
from crucible.cluster.paths import path_of
from crucible.cluster.pods import watch_pods
from crucible.engines.kfp.document import compiled
from crucible.plan import Plan
from crucible.sdk.component import Resources
from crucible.specs.context import ContextDocument, KubernetesSpec
from crucible.testing.cluster import start_cluster
from crucible.testing.plans import make_plan, make_step

POOL = "gpu-bench"
IMAGE = f"registry.example/base@sha256:{'0' * 64}"
LABELS = {"pipeline/runid": "bench"}
PATIENCE_SECONDS = 300.0


def fan_out(number: int) -> Plan:
    resources = Resources(cpus=4, memory_gib=16, gpus=1, pool=POOL)
    items = [
        make_step(f"trial[{i}]", "Noop", config={"salt": str(i)}, resources=resources, image=IMAGE)
        for i in range(number)
    ]
    return make_plan(*items, name="bench")


def pod_of(plan: Plan) -> dict[str, Any]:
    """A pod of the fan-out, as far as scheduling looks at it."""
    context = ContextDocument.model_validate(
        {
            "apiVersion": "crucible/v1",
            "kind": "Context",
            "metadata": {"name": "bench"},
            "store": {"uri": "s3://crucible/store"},
            "images": {"base": IMAGE},
        }
    )
    document = compiled(plan, context)
    container = document.executors["exec-trial"]["container"]
    config = document.kubernetes["exec-trial"]
    resources = container["resources"]
    gpus = {resources["accelerator"]["type"]: resources["accelerator"]["count"]}
    requests = {
        "cpu": resources["resourceCpuRequest"],
        "memory": resources["resourceMemoryRequest"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"labels": {**config["podMetadata"]["labels"], **LABELS}},
        "spec": {
            "restartPolicy": "Never",
            "nodeSelector": config["nodeSelector"]["labels"],
            "tolerations": config["tolerations"],
            "containers": [
                {
                    "name": "main",
                    "image": container["image"],
                    "resources": {"requests": {**requests, **gpus}, "limits": gpus},
                }
            ],
        },
    }


def create_all(connection: Connection, pod: dict[str, Any], number: int) -> float:
    """Seconds to create ``number`` copies, 16 requests at a time."""
    path = path_of("v1", "pods", namespace="default")

    def create(index: int) -> None:
        metadata = {**pod["metadata"], "name": f"trial-{index}"}
        connection.create(f"create pod {index}", path, {**pod, "metadata": metadata})

    began = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(create, range(number)))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--pods", type=int, default=1000)
    options = parser.parse_args()
    pod = pod_of(fan_out(options.pods))
    with start_cluster("bench") as cluster:
        cluster.add_nodes(
            options.nodes,
            prefix="bench",
            labels={"crucible.dev/pool": POOL},
            taints=[f"crucible.dev/pool={POOL}:NoSchedule"],
            capacity={"cpu": "64", "memory": "512Gi", "pods": "110", "nvidia.com/gpu": "8"},
        )
        connection = connect(KubernetesSpec(kubeconfig=str(cluster.kubeconfig)))
        bound: dict[str, str] = {}
        changes = 0
        began = time.perf_counter()
        with (
            watch_pods(connection, "default", "pipeline/runid=bench") as watch,
            ThreadPoolExecutor(1) as creating,
        ):
            created = creating.submit(create_all, connection, pod, options.pods)
            while len(bound) < options.pods:
                if time.perf_counter() - began > PATIENCE_SECONDS:
                    raise SystemExit(f"only {len(bound)} of {options.pods} pods were bound")
                change = watch.get(timeout_seconds=1.0)
                if change is not None:
                    changes += 1
                    if change.item.node:
                        bound[change.item.name] = change.item.node
            seconds = time.perf_counter() - began
            create_seconds = created.result()
        per_node = [list(bound.values()).count(node) for node in set(bound.values())]
        connection.close()
    print(f"created in {create_seconds:.1f} s, all bound after {seconds:.1f} s")
    figures = {
        "name": "pods",
        "pods": options.pods,
        "nodes": options.nodes,
        "seconds_to_create": round(create_seconds, 2),
        "seconds_to_all_bound": round(seconds, 2),
        "pods_per_second": round(options.pods / seconds, 1),
        "most_pods_of_a_node": max(per_node),
        "changes_seen": changes,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
