"""Which engine runs a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crucible.engines.base import Engine
    from crucible.settings import Settings


def get_engine(settings: Settings) -> Engine:
    """The engine of this installation: processes on this machine."""
    from crucible.engines.local.engine import LocalEngine

    return LocalEngine(settings)
