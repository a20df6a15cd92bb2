"""A real Kubernetes for tests: a control plane, one kubelet, and simulated nodes at will."""

from crucible.testing.cluster.failures import ClusterFailed, MachineUnfit
from crucible.testing.cluster.handle import Cluster
from crucible.testing.cluster.harness import OwnCluster, start_cluster

__all__ = ["Cluster", "ClusterFailed", "MachineUnfit", "OwnCluster", "start_cluster"]
