"""Clients of Kubernetes and of what runs in it. The only package that imports ``kubernetes``."""

from crucible.cluster.connection import Connection, connect
from crucible.cluster.patience import Patience

__all__ = ["Connection", "Patience", "connect"]
