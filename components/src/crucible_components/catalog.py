"""The components that pipeline files may name: catalogue name to declaring class.

Read by `crucible.sdk.catalogue` through its import string. Nothing is imported here, so listing
names costs nothing and a component whose extra is not installed hinders no other.
"""

from __future__ import annotations

from typing import Final

CATALOGUE: Final[dict[str, str]] = {
    "synthesize-scenes": "crucible_components.synthesis.component:SynthesizeScenes",
    "train-vlm": "crucible_components.training.component:TrainVlm",
    "fetch-model": "crucible_components.hub.component:FetchModel",
    "merge-models": "crucible_components.merging.component:MergeModels",
    "suggest-parameters": "crucible_components.search.component:SuggestParameters",
    "train-grpo": "crucible_components.rl.component:TrainGrpo",
    "evaluate-model": "crucible_components.evaluation.component:EvaluateModel",
    "report-run": "crucible_components.reporting.component:ReportRun",
}
