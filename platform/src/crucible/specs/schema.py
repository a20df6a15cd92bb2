"""JSON Schema of pipeline files, for completion and checking in editors."""

from __future__ import annotations

from typing import Any

from crucible.specs.model import PipelineDocument


def pipeline_json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of pipeline files."""
    return PipelineDocument.model_json_schema(by_alias=True)
