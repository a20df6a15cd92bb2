"""What a pool has free, in numbers and in words."""

from __future__ import annotations

import pytest

from crucible.cluster.nodes import PlacementRequest, placement_report, pool_view
from crucible.specs.context import PoolSpec, TolerationSpec

NODES, PODS = "/api/v1/nodes", "/api/v1/namespaces/runs/pods"
GPU = "nvidia.com/gpu"
POOL = PoolSpec(
    node_selector={"crucible.dev/pool": "gpu-train"},
    tolerations=[TolerationSpec(key=GPU, operator="Exists", effect="NoSchedule")],
)


def node(name: str, gpus: int = 8, *, ready: bool = True, **spec: object) -> dict[str, object]:
    return {
        "metadata": {"name": name, "labels": {"crucible.dev/pool": "gpu-train"}},
        "spec": spec,
        "status": {
            "allocatable": {"cpu": "64", "memory": "512Gi", GPU: str(gpus)},
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }


def pod(name: str, on: str, gpus: int, phase: str = "Running", **spec: object) -> dict[str, object]:
    requests = {"cpu": "1500m", "memory": "64Gi"}
    container = {"name": "main", "resources": {"requests": requests, "limits": {GPU: str(gpus)}}}
    container["resources"]["requests"] |= {GPU: str(gpus)}  # type: ignore[index]
    return {
        "metadata": {"name": name},
        "spec": {"nodeName": on, "containers": [container], **spec},
        "status": {"phase": phase},
    }


def report(connection, **request: float) -> tuple[bool, bool, str]:
    view = pool_view(connection, "gpu-train", POOL)
    found = placement_report(view, PlacementRequest(**request))  # type: ignore[arg-type]
    return found.fits_now, found.fits_ever, found.text


def test_no_node_of_that_label(connection) -> None:
    expected = (False, False, "no node carries crucible.dev/pool=gpu-train")
    assert report(connection, gpus=8) == expected


def test_all_gpus_are_free(api, connection) -> None:
    api.put(NODES, node("n1"))
    assert report(connection, gpus=8) == (True, True, "1 node of pool gpu-train has 8 GPUs free")


def test_too_much_is_in_use(api, connection) -> None:
    api.put(NODES, node("n1"))
    api.put(NODES, node("n2"))
    api.put(PODS, pod("a", "n1", 8))
    api.put(PODS, pod("b", "n2", 4))
    api.put(PODS, pod("done", "n2", 4, "Succeeded"))
    text = "no node of pool gpu-train has 8 GPUs free: 2 nodes, 8 GPUs each, 12 in use"
    assert report(connection, gpus=8) == (False, True, text)
    assert report(connection, gpus=4)[0]
    assert not report(connection, gpus=4, num_nodes=2)[0]


def test_no_node_is_large_enough(api, connection) -> None:
    api.put(NODES, node("n1", gpus=4))
    text = "no node of pool gpu-train has 8 GPUs: 1 node, the most on one is 4 GPUs"
    assert report(connection, gpus=8) == (False, False, text)


def test_several_nodes_are_needed(api, connection) -> None:
    api.put(NODES, node("n1"))
    api.put(NODES, node("n2"))
    api.put(PODS, pod("a", "n1", 1))
    fits_now, fits_ever, text = report(connection, gpus=8, num_nodes=2)
    assert (fits_now, fits_ever) == (False, True)
    assert text.startswith("2 nodes are needed, and 1 node of pool gpu-train has 8 GPUs free")
    fits_now, fits_ever, text = report(connection, gpus=8, num_nodes=3)
    assert (fits_now, fits_ever) == (False, False)
    assert text.startswith("3 nodes are needed, and 2 nodes of pool gpu-train have 8 GPUs:")


def test_cordoned_sick_and_tainted_nodes(api, connection) -> None:
    api.put(NODES, node("n1", unschedulable=True))
    api.put(NODES, node("n2", ready=False))
    taint = {"key": "team", "value": "b", "effect": "NoSchedule"}
    own = {"key": GPU, "value": "present", "effect": "NoSchedule"}
    api.put(NODES, node("n3", taints=[taint, own]))
    fits_now, fits_ever, text = report(connection, gpus=8)
    assert (fits_now, fits_ever) == (False, True)
    for part in ("1 cordoned (n1)", "1 not ready (n2)", "does not tolerate: team=b:NoSchedule"):
        assert part in text
    assert GPU + "=present" not in text


def test_cpu_and_memory_count_too(api, connection) -> None:
    api.put(NODES, node("n1"))
    for number in range(7):
        api.put(PODS, pod(f"p{number}", "n1", 0))
    assert report(connection, memory_gib=64)[0]
    fits_now, _, text = report(connection, memory_gib=65)
    assert not fits_now
    assert "512.0 GiB each" in text
    assert "448.0 in use" in text
    assert report(connection, cpus=53.5)[0]
    assert not report(connection, cpus=53.6)[0]


def test_an_init_container_may_ask_for_more(api, connection) -> None:
    api.put(NODES, node("n1"))
    init = {"name": "init", "resources": {"requests": {GPU: "6"}}}
    api.put(PODS, pod("a", "n1", 2, initContainers=[init], overhead={GPU: "1"}))
    assert report(connection, gpus=2)[0]
    assert not report(connection, gpus=3)[0]


def test_without_the_right_to_see_pods(api, connection) -> None:
    api.put(NODES, node("n1"))
    api.denied = ["list v1/pods"]
    fits_now, _, text = report(connection, gpus=8)
    assert fits_now
    assert "not known" in text


@pytest.mark.parametrize(("count", "requests"), [(3, 4), (12, 2)])
def test_few_requests_for_any_number_of_nodes(api, connection, count, requests) -> None:
    for number in range(count):
        api.put(NODES, node(f"n{number:02d}"))
    api.put(PODS, pod("a", "n01", 3))
    view = pool_view(connection, "gpu-train", POOL)
    assert (view.num_gpus, view.num_gpus_used) == (8 * count, 3)
    assert len(api.requests) == requests


def test_another_gpu_resource(api, connection) -> None:
    sliced = PoolSpec(node_selector={}, tolerations=[], gpu_resource="nvidia.com/mig-3g.40gb")
    item = node("n1", gpus=0)
    item["status"]["allocatable"]["nvidia.com/mig-3g.40gb"] = "2"  # type: ignore[index]
    api.put(NODES, item)
    view = pool_view(connection, "mig", sliced)
    assert placement_report(view, PlacementRequest(gpus=2)).fits_now
    assert not placement_report(view, PlacementRequest(gpus=3)).fits_ever
