"""Checks of where steps run: pools and their GPUs, queues, the trainer of steps on many nodes."""

from __future__ import annotations

from collections.abc import Iterator

from crucible.cluster.finding import Finding, Site, unread
from crucible.cluster.nodes import PlacementRequest, PoolView, placement_report, pool_view
from crucible.cluster.paths import path_of
from crucible.cluster.queues import GROUP as KUEUE
from crucible.cluster.resources import served_version
from crucible.cluster.trainjobs import API_VERSION, trainer_features
from crucible.errors import ClusterRefused, ObjectNotFound
from crucible.specs.pools import CPU_POOL, POOL_LABEL, pool_of

_NEEDED_FOR = "only steps on several nodes need it: manifests/third-party"


def trainer(site: Site) -> Iterator[Finding]:
    """Kubeflow Trainer is there, and the runtime that the context names."""
    features = trainer_features(site.connection)
    if features is None:
        yield Finding("trainer", True, "there are no TrainJobs here", _NEEDED_FOR)
        return
    fix = "" if features.patch_field == "runtimePatches" else "use Kubeflow Trainer 2.2 or later"
    progress = "" if features.has_progress else ", without progress"
    detail = f"TrainJobs with {features.patch_field or 'no way to adapt pods'}{progress}"
    yield Finding("trainer", True, detail, fix)
    runtime = site.context.trainer.runtime
    path = path_of(API_VERSION, "clustertrainingruntimes", name=runtime)
    try:
        site.connection.get("look for the training runtime", path)
    except ObjectNotFound:
        detail = f"there is no ClusterTrainingRuntime {runtime}"
        yield Finding("training runtime", True, detail, "apply manifests/components/trainer")
    except ClusterRefused:
        yield unread("training runtime", runtime)
    else:
        yield Finding("training runtime", True, runtime)


def queues(site: Site) -> Iterator[Finding]:
    """The LocalQueues that pools name are in the namespace of runs."""
    names = {pool.queue for pool in site.context.pools.values() if pool.queue is not None}
    if not names:
        return
    version = served_version(site.connection, KUEUE, "localqueues")
    if version is None:
        fix = "install Kueue (manifests/third-party), or remove queue from the pools"
        yield Finding("queue", False, "pools name queues, and there is no Kueue here", fix)
        return
    for name in sorted(names):
        path = path_of(f"{KUEUE}/{version}", "localqueues", namespace=site.namespace, name=name)
        try:
            site.connection.get("look for the queue", path)
        except ObjectNotFound:
            detail = f"there is no LocalQueue {name} in namespace {site.namespace}"
            yield Finding("queue", False, detail, "apply manifests/components/kueue")
        except ClusterRefused:
            yield unread("queue", f"LocalQueue {name}", "ask for the role crucible-viewer")
        else:
            yield Finding("queue", True, name)


def pools(site: Site) -> Iterator[Finding]:
    """Nodes and GPUs of the pools that the context names or that nodes belong to."""
    try:
        nodes, _ = site.connection.items("list nodes", path_of("v1", "nodes"))
    except ClusterRefused:
        yield unread("pools", "nodes")
        return
    labels = (node["metadata"].get("labels") or {} for node in nodes)
    found = {str(each[POOL_LABEL]) for each in labels if each.get(POOL_LABEL)}
    for name in [CPU_POOL, *sorted((found | set(site.context.pools)) - {CPU_POOL})]:
        view = pool_view(site.connection, name, pool_of(site.context, name))
        yield _pool(view)


def _pool(view: PoolView) -> Finding:
    name = f"pool {view.name}"
    report = placement_report(view, PlacementRequest())
    if not view.nodes:
        key, _, value = view.selector.partition("=")
        fix = f"kubectl label node NODE {key}={value}; or nothing, if it grows on demand"
        return Finding(name, True, report.text, fix)
    if not report.fits_now:
        fix = "mend or uncordon a node; kubectl describe node NODE says why"
        return Finding(name, False, report.text, fix)
    usable = sum(node.is_usable for node in view.nodes)
    used = "unknown" if view.num_gpus_used is None else str(view.num_gpus_used)
    gpus = f", {view.num_gpus} GPUs, {used} in use" if view.num_gpus else ", no GPUs"
    detail = f"{len(view.nodes)} nodes, {usable} usable{gpus}"
    if view.name != CPU_POOL and not view.num_gpus:
        fix = f"install the device plugin that offers {view.gpu_resource}, if it is a GPU pool"
        return Finding(name, True, detail, fix)
    return Finding(name, True, detail)
