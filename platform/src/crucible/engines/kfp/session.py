"""What the engine talks to: KFP, the store, MLflow and the Kubernetes API of one context.

Each is reached when it is first needed. Store and MLflow are known to everything below by
environment variables, so reaching them sets those of this process until `Session.close`; a token or
key of this machine's own environment is kept.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cache, cached_property

from crucible.artifacts.store import Store, open_store
from crucible.cluster import access, contexts
from crucible.cluster.connection import Connection, connect
from crucible.cluster.nodes import PlacementRequest, placement_report, pool_view
from crucible.engines.kfp.api import PipelinesApi
from crucible.errors import CrucibleError
from crucible.sdk.component import Resources
from crucible.settings import Settings
from crucible.specs.context import ContextDocument
from crucible.specs.pools import pool_of


class Session:
    """Connections of one process. Port-forwards live until `close` or the end of the process."""

    def __init__(self, context: ContextDocument) -> None:
        self.context = context
        self._exits = contextlib.ExitStack()
        atexit.register(self.close)

    @cached_property
    def connection(self) -> Connection:
        """The Kubernetes API; nothing is asked of it yet."""
        connection = connect(self.context.kubernetes)
        self._exits.callback(connection.close)
        return connection

    @cached_property
    def api(self) -> PipelinesApi:
        """KFP's API.

        Raises:
            CrucibleError: it cannot be reached the way the context says.
        """
        found = self._exits.enter_context(access.kfp_access(self.context, self.connection))
        return PipelinesApi(
            found.host,
            self.context.kubernetes.namespace,
            token=found.token,
            ca_file=found.ca_file,
            cert=found.cert,
            verify=found.verify,
        )

    @cached_property
    def store(self) -> Store:
        """The artifact store.

        Raises:
            CrucibleError: it cannot be reached, or its keys cannot be read.
        """
        self._enter(access.store_environ(self.context, self.connection))
        return open_store(os.environ["CRUCIBLE_STORE"])

    @cached_property
    def settings(self) -> Settings:
        """The installation's settings with the context's store and MLflow."""
        self._enter(access.mlflow_environ(self.context, self.connection))
        _ = self.store
        return Settings.load()

    def placement(self, resources: Resources) -> str:
        """Why the nodes of the step's pool have no place for it; empty if they have, or are hidden.

        The scheduler's own words follow in any case.
        """
        pool = pool_of(self.context, resources.pool)
        request = PlacementRequest(resources.gpus, resources.cpus, resources.memory_gib)
        try:
            found = placement_report(pool_view(self.connection, resources.pool, pool), request)
        except CrucibleError:
            return ""
        return "" if found.fits_now else found.text

    def close(self) -> None:
        """End port-forwards and connections."""
        self._exits.close()

    def _enter(self, environ: AbstractContextManager[dict[str, str]]) -> None:
        found = self._exits.enter_context(environ)
        self._exits.callback(_restore, {name: os.environ.get(name) for name in found})
        os.environ.update(found)


def _restore(environ: Mapping[str, str | None]) -> None:
    for name, value in environ.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@cache
def session_of(name: str) -> Session:
    """The one session of this process with the context of that name.

    Raises:
        UserError: there is no such context, or its file has mistakes.
    """
    return Session(contexts.load(name))
