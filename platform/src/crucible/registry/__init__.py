"""Model registry: versions with their evidence, the promotion gate, aliases, rollback."""

from crucible.registry.gate import Decision, GatePolicy, MetricBound, decide
from crucible.registry.registry import Registry
from crucible.registry.version import Version
from crucible.registry.versions import Candidate

__all__ = [
    "Candidate",
    "Decision",
    "GatePolicy",
    "MetricBound",
    "Registry",
    "Version",
    "decide",
]
