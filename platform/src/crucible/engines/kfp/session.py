"""What the engine talks to: KFP, the store and the Kubernetes API of one context, when needed."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from functools import cached_property

from crucible.artifacts.store import Store, open_store
from crucible.cluster.connection import Connection, connect
from crucible.engines.kfp.api import PipelinesApi
from crucible.specs.context import ContextDocument


@dataclass
class Session:
    """Connections of one process. Port-forwards live until `close` or the end of the process."""

    context: ContextDocument
    _exits: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @cached_property
    def connection(self) -> Connection:
        """The Kubernetes API; nothing is asked of it yet."""
        connection = connect(self.context.kubernetes)
        self._exits.callback(connection.close)
        return connection

    @cached_property
    def api(self) -> PipelinesApi:
        """KFP's API."""
        access = self.context.pipelines.api
        assert access.access == "url"
        return PipelinesApi(access.url, self.context.kubernetes.namespace)

    @cached_property
    def store(self) -> Store:
        """The artifact store."""
        return open_store(os.environ.get("CRUCIBLE_STORE") or self.context.store.uri)

    def placement(self, pool: str, gpus: int) -> str:
        """What the nodes of a pool have to say about a pod that asks for so many GPUs."""
        return ""

    def close(self) -> None:
        """End port-forwards and connections."""
        self._exits.close()
