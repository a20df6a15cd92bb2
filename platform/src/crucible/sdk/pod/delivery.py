"""What KFP gets of a pod: references where it looks for artifacts, and what its pages can show.

KFP's launcher uploads every declared artifact whole, so an artifact's file is the reference of a
few hundred bytes. Numbers go into the metadata of Metrics; a Report's page is uploaded as itself
beside its reference, since KFP shows HTML from the file alone; predictions with right answers give
a confusion matrix and, where the model said how sure it was, a ROC curve.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from crucible.artifacts.files import write_atomically
from crucible.errors import ArtifactError
from crucible.sdk.executor import RuntimeArtifact, local_path, write_executor_output
from crucible.sdk.pod.attempt import Outcome
from crucible.sdk.pod.classification import classification_of
from crucible.sdk.pod.pod import Pod
from crucible.sdk.pod.request import PodStep
from crucible.sdk.pod.sources import read_metrics
from crucible.sdk.types import MetadataValue

logger = logging.getLogger(__name__)

HTML_SUFFIX, CLASSIFICATION_SUFFIX = ".html", ".classification"
"""Of the artifacts that exist for KFP's pages only, added to the name of the output."""
_PAGE = "report.html"
_MAX_PAGE_BYTES = 8 << 20
"""A larger page stays in the store: `platformctl status` prints where."""


@dataclass
class Delivery:
    """Collects what the steps of a pod wrote, then writes KFP's executor output at once."""

    pod: Pod
    _artifacts: dict[str, RuntimeArtifact] = field(default_factory=dict)
    _parameters: dict[str, float] = field(default_factory=dict)

    def take(self, step: PodStep, outcome: Outcome) -> None:
        """Put the references of one step where KFP wants them."""
        self._parameters |= self.parameters_of(self.pod, step, outcome)
        for output, written in outcome.written.items():
            name = self.pod.request.artifact_name(step, output)
            place = self.pod.request.outputs.get(name)
            if place is None:
                continue
            place.path.parent.mkdir(parents=True, exist_ok=True)
            place.path.write_bytes(local_path(written.uri).read_bytes())
            self._artifacts[name] = RuntimeArtifact(
                place.name, place.uri, place.schema_title, _flat(written.metadata)
            )
            try:
                self._artifacts |= dict(self._pages(step, output, name, outcome.digests[output]))
            except (ArtifactError, OSError, ValueError, KeyError) as error:
                logger.warning("%s is not shown in KFP: %s", name, error)

    def write(self) -> None:
        """Write the executor output: from here on KFP takes the steps as done."""
        write_executor_output(
            self.pod.request.output_file, self._artifacts, parameters=self._parameters
        )

    @staticmethod
    def parameters_of(pod: Pod, step: PodStep, outcome: Outcome) -> dict[str, float]:
        """The numbers that conditions of other steps compare.

        Raises:
            UserError: the step did not measure one of them.
        """
        return read_metrics(step.parameters, {step.step_id: outcome.digests}, pod.store)

    def _pages(
        self, step: PodStep, output: str, name: str, digest: str
    ) -> Iterator[tuple[str, RuntimeArtifact]]:
        kind = step.outputs[output]
        html = self.pod.request.outputs.get(f"{name}{HTML_SUFFIX}")
        if html is not None and kind.name == "Report":
            reader = self.pod.store.reader(digest)
            if reader.manifest.file(_PAGE).size_bytes <= _MAX_PAGE_BYTES:
                html.path.parent.mkdir(parents=True, exist_ok=True)
                with reader.open(_PAGE) as page:
                    write_atomically(html.path, page.read(), durable=False)
                yield f"{name}{HTML_SUFFIX}", html
        chart = self.pod.request.outputs.get(f"{name}{CLASSIFICATION_SUFFIX}")
        if chart is not None:
            with self.pod.store.reader(digest, self.pod.scratch_dir).open("records.jsonl") as lines:
                found = classification_of(json.loads(line) for line in lines)
            if found:
                chart.path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(chart.path, json.dumps(found).encode(), durable=False)
                yield (
                    f"{name}{CLASSIFICATION_SUFFIX}",
                    RuntimeArtifact(chart.name, chart.uri, chart.schema_title, found),
                )


def _flat(metadata: Mapping[str, Any]) -> dict[str, MetadataValue]:
    """Strings and numbers only: KFP's metadata store keeps nothing else as it is."""
    return {k: v for k, v in metadata.items() if isinstance(v, (str, int, float))}
