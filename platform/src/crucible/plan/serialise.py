"""Plans as JSON: canonical for digests, readable for files."""

from __future__ import annotations

from crucible.plan.model import Plan


def plan_digest(plan: Plan) -> str:
    """``sha256:<hex>`` of the canonical JSON of ``plan`` without its spec's path and text."""
    import dataclasses
    import hashlib
    import json

    value = dataclasses.asdict(plan)
    del value["spec_path"], value["spec_text"]
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
