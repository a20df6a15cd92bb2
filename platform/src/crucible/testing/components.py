"""Components that do nothing, or misbehave on purpose: for tests, ours and users', and benchmarks.

Used as ``crucible.testing.components:Noop`` and so on. None imports more than the standard library.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from crucible.errors import TemporaryError
from crucible.sdk.component import Component, ComponentConfig, ComponentInputs, ComponentOutputs
from crucible.sdk.context import Context
from crucible.sdk.types import (
    ArtifactType,
    Dataset,
    Metrics,
    Model,
    Report,
    SameVariantAs,
    VisionLanguage,
)

_BLOCK_BYTES = 1 << 20


class _OptionalDataset(ComponentInputs):
    dataset: Dataset | None
    """Anything, or nothing."""


class _OneDataset(ComponentOutputs):
    dataset: Dataset


def _write_record(dataset: Dataset, **fields: object) -> None:
    text = json.dumps({"id": "0", **fields}, sort_keys=True)
    dataset.new_file("records.jsonl").write_text(text + "\n")


class Noop(Component):
    """Write one record that names the input's digest."""

    name = "test-noop"

    Inputs = _OptionalDataset
    Outputs = _OneDataset

    class Config(ComponentConfig):
        salt: str = ""
        """Goes into the record, so that steps without inputs can differ."""

    def run(
        self, inputs: _OptionalDataset, config: Config, outputs: _OneDataset, context: Context
    ) -> None:
        digest = inputs.dataset.digest if inputs.dataset else None
        _write_record(outputs.dataset, input=digest, salt=config.salt)


class Emit(Component):
    """Write a text, numbers and, if asked, a report."""

    name = "test-emit"

    class Config(ComponentConfig):
        text: str = ""
        values: dict[str, float] = Field(default_factory=dict)
        """The metrics, also logged as a series of one point."""
        report_html: str | None = None
        """None: the report stays unwritten."""

    class Outputs(ComponentOutputs):
        dataset: Dataset
        metrics: Metrics
        report: Report | None

    def run(
        self, inputs: ComponentInputs, config: Config, outputs: Outputs, context: Context
    ) -> None:
        _write_record(outputs.dataset, text=config.text)
        outputs.metrics.write(config.values)
        context.tracking.log_metrics(config.values)
        if config.report_html is not None and outputs.report is not None:
            outputs.report.new_file("report.html").write_text(config.report_html)


class Sum(Component):
    """Add up the metrics of all inputs, name by name."""

    name = "test-sum"

    class Inputs(ComponentInputs):
        metrics: list[Metrics]

    class Config(ComponentConfig):
        offset: float = 0.0
        """Added to every sum; may be a metric of another step."""

    class Outputs(ComponentOutputs):
        metrics: Metrics

    def run(self, inputs: Inputs, config: Config, outputs: Outputs, context: Context) -> None:
        sums: dict[str, float] = {}
        for metrics in inputs.metrics:
            for name, value in metrics.read().items():
                sums[name] = sums.get(name, config.offset) + value
        outputs.metrics.write(sums)


class MakeModel(Component):
    """Write a folder that claims to be a model of some kind."""

    name = "test-make-model"

    class Config(ComponentConfig):
        variant: Literal["causal-lm", "vision-language"] = "causal-lm"
        size_bytes: Annotated[int, Field(ge=0)] = 8

    class Outputs(ComponentOutputs):
        model: Model

    def run(
        self, inputs: ComponentInputs, config: Config, outputs: Outputs, context: Context
    ) -> None:
        outputs.model.type = ArtifactType("Model", config.variant)
        outputs.model.write_json("config.json", {"variant": config.variant})
        outputs.model.new_file("weights.bin").write_bytes(bytes(config.size_bytes))


class CopyModel(Component):
    """Write a model of the same kind as the input."""

    name = "test-copy-model"

    class Inputs(ComponentInputs):
        model: Model

    class Outputs(ComponentOutputs):
        model: Annotated[Model, SameVariantAs("model")]

    def run(
        self, inputs: Inputs, config: ComponentConfig, outputs: Outputs, context: Context
    ) -> None:
        for path in inputs.model.paths():
            outputs.model.new_file(path).write_bytes(inputs.model.local_path(path).read_bytes())


class WantVision(Component):
    """Accept a vision-language model and nothing else."""

    name = "test-want-vision"

    class Inputs(ComponentInputs):
        model: Model[VisionLanguage]

    Outputs = _OneDataset

    def run(
        self, inputs: Inputs, config: ComponentConfig, outputs: _OneDataset, context: Context
    ) -> None:
        _write_record(outputs.dataset, model=inputs.model.digest)


class Count(Component):
    """Count to ``until`` with checkpoints; the record is that of an undisturbed run or wrong.

    The state is a chain of digests, so a number that is skipped or counted twice shows.
    """

    name = "test-count"

    Inputs = _OptionalDataset
    Outputs = _OneDataset

    class Config(ComponentConfig):
        until: Annotated[int, Field(ge=0)] = 20
        checkpoint_every: Annotated[int, Field(gt=0)] = 5
        pause_seconds: Annotated[float, Field(ge=0)] = 0.0
        """Slept after each number."""

    def run(
        self, inputs: _OptionalDataset, config: Config, outputs: _OneDataset, context: Context
    ) -> None:
        count, state = 0, inputs.dataset.digest or "" if inputs.dataset else ""
        found = context.checkpoint.latest()
        if found is not None:
            count, state = found[0], (found[1] / "state.txt").read_text()
        while count < config.until:
            count += 1
            state = hashlib.sha256(f"{state}/{count}".encode()).hexdigest()
            time.sleep(config.pause_seconds)
            if count % config.checkpoint_every == 0:
                with context.checkpoint.save(count) as folder:
                    (folder / "state.txt").write_text(state)
            context.progress.update(count, config.until, unit="numbers")
        _write_record(outputs.dataset, count=count, state=state)


class Raise(Component):
    """Raise a ValueError."""

    name = "test-raise"

    Inputs = _OptionalDataset
    Outputs = _OneDataset

    class Config(ComponentConfig):
        message: str = "on purpose"

    def run(
        self, inputs: _OptionalDataset, config: Config, outputs: _OneDataset, context: Context
    ) -> None:
        raise ValueError(config.message)


class RaiseTemporary(Component):
    """Raise a TemporaryError the first few times, then work."""

    name = "test-raise-temporary"
    cacheable: ClassVar[bool] = False

    Outputs = _OneDataset

    class Config(ComponentConfig):
        state_path: str
        """A file that counts the tries, one byte each."""
        failures: Annotated[int, Field(ge=0)] = 1

    def run(
        self, inputs: ComponentInputs, config: Config, outputs: _OneDataset, context: Context
    ) -> None:
        path = Path(config.state_path)
        with path.open("ab") as stream:
            stream.write(b".")
        if path.stat().st_size <= config.failures:
            raise TemporaryError("the service is busy, on purpose.")
        _write_record(outputs.dataset)


class Sleep(Component):
    """Sleep, then write one record."""

    name = "test-sleep"

    Inputs = _OptionalDataset
    Outputs = _OneDataset

    class Config(ComponentConfig):
        seconds: Annotated[float, Field(ge=0)] = 1.0
        salt: str = ""

    def run(
        self, inputs: _OptionalDataset, config: Config, outputs: _OneDataset, context: Context
    ) -> None:
        time.sleep(config.seconds)
        _write_record(outputs.dataset, salt=config.salt)


class Hang(Component):
    """Never return; ignore SIGTERM if asked, so that only SIGKILL helps."""

    name = "test-hang"

    Outputs = _OneDataset

    class Config(ComponentConfig):
        ignore_sigterm: bool = False

    def run(
        self, inputs: ComponentInputs, config: Config, outputs: _OneDataset, context: Context
    ) -> None:
        if config.ignore_sigterm:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(3600)


class EatMemory(Component):
    """Touch memory until it is refused, the kernel kills, or ``max_gib`` is held."""

    name = "test-eat-memory"

    Outputs = _OneDataset

    class Config(ComponentConfig):
        max_gib: Annotated[float, Field(gt=0)] = 1.0
        hold_seconds: Annotated[float, Field(ge=0)] = 0.0

    def run(
        self, inputs: ComponentInputs, config: Config, outputs: _OneDataset, context: Context
    ) -> None:
        blocks = []
        for _ in range(int(config.max_gib * 2**30 / _BLOCK_BYTES)):
            blocks.append(b"\1" * _BLOCK_BYTES)
        time.sleep(config.hold_seconds)
        _write_record(outputs.dataset, num_blocks=len(blocks))


class PrintMuch(Component):
    """Print lines to stdout, gigabytes if asked."""

    name = "test-print-much"

    Outputs = _OneDataset

    class Config(ComponentConfig):
        size_bytes: Annotated[int, Field(ge=0)] = 10 * _BLOCK_BYTES

    def run(
        self, inputs: ComponentInputs, config: Config, outputs: _OneDataset, context: Context
    ) -> None:
        line = b"x" * 99 + b"\n"
        block = line * (_BLOCK_BYTES // len(line))
        left = config.size_bytes
        while left > 0:
            left -= os.write(1, block[:left])
        _write_record(outputs.dataset)


class WriteNothing(Component):
    """End well without writing the output."""

    name = "test-write-nothing"

    Outputs = _OneDataset

    def run(
        self,
        inputs: ComponentInputs,
        config: ComponentConfig,
        outputs: _OneDataset,
        context: Context,
    ) -> None:
        """Return at once."""


class Exit(Component):
    """Leave the process without unwinding."""

    name = "test-exit"

    Outputs = _OneDataset

    class Config(ComponentConfig):
        code: Annotated[int, Field(ge=0, le=255)] = 3

    def run(
        self, inputs: ComponentInputs, config: Config, outputs: _OneDataset, context: Context
    ) -> None:
        os._exit(config.code)


class KillSelf(Component):
    """Send a signal to the own process."""

    name = "test-kill-self"

    Outputs = _OneDataset

    class Config(ComponentConfig):
        signal_number: Annotated[int, Field(ge=1, le=64)] = int(signal.SIGKILL)

    def run(
        self, inputs: ComponentInputs, config: Config, outputs: _OneDataset, context: Context
    ) -> None:
        os.kill(os.getpid(), config.signal_number)
        time.sleep(60)
