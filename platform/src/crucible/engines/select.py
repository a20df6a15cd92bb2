"""Which engine runs a plan, and where the things of its runs are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crucible.settings import Settings

if TYPE_CHECKING:
    from crucible.engines.base import Engine


def get_engine(settings: Settings) -> Engine:
    """The engine of this installation's context: a cluster, or processes on this machine.

    Raises:
        UserError: there is no such context, or its file has mistakes.
    """
    if settings.context is not None:
        from crucible.engines.kfp.engine import KfpEngine
        from crucible.engines.kfp.session import session_of

        return KfpEngine(session_of(settings.context))
    from crucible.engines.local.engine import LocalEngine

    return LocalEngine(settings)


def current_settings() -> Settings:
    """The installation's settings; store and MLflow are those of the current context.

    On a cluster they are reached by this, which may open port-forwards for the process's life.

    Raises:
        CrucibleError: they cannot be reached.
    """
    settings = Settings.load()
    if settings.context is None:
        return settings
    from crucible.engines.kfp.session import session_of

    return session_of(settings.context).settings
