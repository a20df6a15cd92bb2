"""From a checked pipeline file to a resolved, typed, fingerprinted DAG."""

from crucible.plan.model import Plan
from crucible.plan.serialise import plan_digest, plan_from_json, plan_to_json

__all__ = ["Plan", "plan_digest", "plan_from_json", "plan_to_json"]
