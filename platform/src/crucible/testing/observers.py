"""Components that write down what an engine gave them: their process, and the record of the run.

Used as ``crucible.testing.observers:TellProcess`` and so on.
"""

from __future__ import annotations

import json
import os
from typing import ClassVar

from crucible.sdk.component import Component, ComponentConfig, ComponentInputs, ComponentOutputs
from crucible.sdk.context import Context
from crucible.sdk.types import Dataset, Metrics, RunRecord


class Observation(ComponentOutputs):
    """One record with what was seen."""

    dataset: Dataset

    def write(self, **seen: object) -> None:
        text = json.dumps({"id": "0", **seen}, sort_keys=True)
        self.dataset.new_file("records.jsonl").write_text(text + "\n")


class TellProcess(Component):
    """Write a record of the process that the step runs in."""

    name = "test-tell-process"
    cacheable: ClassVar[bool] = False

    Outputs = Observation

    def run(
        self,
        inputs: ComponentInputs,
        config: ComponentConfig,
        outputs: Observation,
        context: Context,
    ) -> None:
        outputs.write(
            pid=os.getpid(),
            session=os.getsid(0),
            events=os.environ.get("CRUCIBLE_EVENTS"),
            cuda_visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )


class DescribeRun(Component):
    """Write a record of what the run's own record says: an exit step."""

    name = "test-describe-run"
    cacheable: ClassVar[bool] = False

    class Inputs(ComponentInputs):
        run: RunRecord
        metrics: list[Metrics] | None

    Outputs = Observation

    def run(
        self, inputs: Inputs, config: ComponentConfig, outputs: Observation, context: Context
    ) -> None:
        record = inputs.run.read_json("run.json")
        statuses = {name: step["status"] for name, step in record["state"]["steps"].items()}
        outputs.write(
            statuses=statuses,
            series=record["metrics"],
            release=record["state"]["release"],
            num_metrics=len(inputs.metrics or ()),
        )
