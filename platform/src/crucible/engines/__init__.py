"""Running plans: the `Engine` protocol, the state of a run, and the engines themselves."""

from crucible.engines.select import current_settings, get_engine

__all__ = ["current_settings", "get_engine"]
