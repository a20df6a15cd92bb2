"""The YAML files that users write: reading, checking, and their JSON Schema."""

from crucible.specs.loader import load_pipeline
from crucible.specs.schema import pipeline_json_schema
from crucible.specs.spec import PipelineSpec

__all__ = ["PipelineSpec", "load_pipeline", "pipeline_json_schema"]
