"""Running plans: the `Engine` protocol, the state of a run, and the engines themselves."""

from crucible.engines.select import get_engine

__all__ = ["get_engine"]
