"""From a checked pipeline file to a resolved, typed, fingerprinted DAG.

The model and its JSON are here at once. What makes and shows plans is loaded on first use, so that
engines and step processes, which only read plans, do not load YAML and the spec models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crucible.plan.model import Plan
from crucible.plan.serialise import plan_digest, plan_from_json, plan_to_json

if TYPE_CHECKING:
    from crucible.plan.changes import diff
    from crucible.plan.document import plan_document
    from crucible.plan.outlook import cache_outlook
    from crucible.plan.planner import build
    from crucible.plan.render import render_plan

__all__ = [
    "Plan",
    "build",
    "cache_outlook",
    "diff",
    "plan_digest",
    "plan_document",
    "plan_from_json",
    "plan_to_json",
    "render_plan",
]

_MODULES = {
    "build": "planner",
    "cache_outlook": "outlook",
    "diff": "changes",
    "plan_document": "document",
    "render_plan": "render",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
