"""Which engine runs a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crucible.engines.base import Engine
    from crucible.settings import Settings


def get_engine(settings: Settings) -> Engine:
    """The engine of this installation's context: a cluster, or processes on this machine.

    Raises:
        UserError: there is no such context, or its file has mistakes.
    """
    if settings.context is not None:
        from crucible.cluster.contexts import load_current
        from crucible.engines.kfp.engine import KfpEngine
        from crucible.engines.kfp.session import Session

        return KfpEngine(Session(load_current(settings)))
    from crucible.engines.local.engine import LocalEngine

    return LocalEngine(settings)
