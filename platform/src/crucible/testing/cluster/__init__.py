"""A real Kubernetes for tests: a control plane, one kubelet, and simulated nodes at will."""

from crucible.testing.cluster.failures import ClusterFailed, MachineUnfit
from crucible.testing.cluster.handle import IMAGE_VARIABLE, KUBECONFIG_VARIABLE, Cluster
from crucible.testing.cluster.harness import OwnCluster, start_cluster
from crucible.testing.cluster.images import write_image
from crucible.testing.cluster.pods import hardened_pod_spec, job, pod
from crucible.testing.cluster.programs import build_programs
from crucible.testing.cluster.requirements import check_machine

__all__ = [
    "IMAGE_VARIABLE",
    "KUBECONFIG_VARIABLE",
    "Cluster",
    "ClusterFailed",
    "MachineUnfit",
    "OwnCluster",
    "build_programs",
    "check_machine",
    "hardened_pod_spec",
    "job",
    "pod",
    "start_cluster",
    "write_image",
]
