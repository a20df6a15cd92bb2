"""Runs a compiled pipeline step by step, as processes or as pods, without Kubeflow Pipelines.

`run_pipeline` follows the two YAML documents as KFP's driver and Argo would, and hands each task to
a `Runner`: `ProcessRunner` for processes of this machine, `PodRunner` for pods of a Kubernetes. In
both a double of KFP's launcher stands around the user's command.
"""

from crucible.testing.kfp_driver.document import Pipeline, RefusedPipeline, read_pipeline
from crucible.testing.kfp_driver.driver import Run, Settings, run_pipeline
from crucible.testing.kfp_driver.execution import State
from crucible.testing.kfp_driver.objects import Objects
from crucible.testing.kfp_driver.pods import Fault
from crucible.testing.kfp_driver.process_runner import ProcessRunner

__all__ = [
    "Fault",
    "Objects",
    "Pipeline",
    "ProcessRunner",
    "RefusedPipeline",
    "Run",
    "Settings",
    "State",
    "read_pipeline",
    "run_pipeline",
]
