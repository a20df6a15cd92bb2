"""What can go wrong while a cluster is started or used."""

from __future__ import annotations


class ClusterFailed(RuntimeError):
    """A part did not start, did not become ready, or refused a request."""


class MachineUnfit(ClusterFailed):
    """This machine cannot run a cluster; the message names everything that is missing."""
