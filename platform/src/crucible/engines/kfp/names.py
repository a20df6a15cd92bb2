"""Names that the parts of the engine must agree on."""

from __future__ import annotations

RELEASE_ID, RECORD_ID = "crucible-release", "crucible-record"
"""Steps that no pipeline file has: the release, and the record of the run before the exit step."""
STEPS_TASK, RUN_TASK, EXIT_TASK = "steps", "run", "on-exit"
"""Tasks of KFP that are no step: levels of the pipeline, and the pod that ends the run."""
