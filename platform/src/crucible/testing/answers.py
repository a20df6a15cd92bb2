"""A component that writes scored answers as an evaluation does.

Used as ``crucible.testing.answers:Answer``.
"""

from __future__ import annotations

import json

from crucible.sdk.component import Component, ComponentConfig, ComponentInputs, ComponentOutputs
from crucible.sdk.context import Context
from crucible.sdk.types import Dataset, Predictions


class Answer(Component):
    """Answer questions of yes or no as it is told to."""

    name = "test-answer"

    class Config(ComponentConfig):
        answers: list[tuple[str, float]]
        """The right answer, ``yes`` or ``no``, and how likely yes is held to be."""

    class Outputs(ComponentOutputs):
        predictions: Dataset[Predictions]

    def run(
        self, inputs: ComponentInputs, config: Config, outputs: Outputs, context: Context
    ) -> None:
        lines = []
        for number, (answer, probability) in enumerate(config.answers):
            prediction = "yes" if probability > 0.5 else "no"
            record = {
                "id": str(number),
                "category": "color",
                "question": "Is it red?",
                "answer": answer,
                "prediction": prediction,
                "correct": answer == prediction,
                "probability_yes": probability,
            }
            lines.append(json.dumps(record) + "\n")
        outputs.predictions.new_file("records.jsonl").write_text("".join(lines))
