"""What a check of a cluster found, and what all checks share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from crucible.cluster.connection import Connection
from crucible.specs.context import ContextDocument


@dataclass(frozen=True)
class Finding:
    """One finding. A fix for something that passed is advice."""

    name: str
    passed: bool
    detail: str
    fix: str = ""


@dataclass(frozen=True)
class Site:
    """The cluster that is looked at."""

    context: ContextDocument
    connection: Connection
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def namespace(self) -> str:
        """Where runs live."""
        return self.context.kubernetes.namespace


def unread(name: str, what: str, fix: str = "ask for the role crucible-cluster-viewer") -> Finding:
    """What we have no right to look at is advice, not a failure: runs may do without."""
    return Finding(name, True, f"{what} cannot be read (403)", fix)
