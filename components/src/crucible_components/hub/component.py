"""Component `fetch-model`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import field_validator

from crucible.sdk.component import (
    Component,
    ComponentConfig,
    ComponentInputs,
    ComponentOutputs,
    Resources,
)
from crucible.sdk.types import CausalLM, Model

if TYPE_CHECKING:
    from crucible.sdk.context import Context

_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


class FetchConfig(ComponentConfig):
    """Settings of one download."""

    model: str
    """``ORG/NAME`` or ``ORG/NAME@REVISION`` of the Hugging Face hub. Name a commit: a branch is
    fetched once and then taken from the cache, whatever became of it."""

    @field_validator("model")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("ORG/NAME or ORG/NAME@REVISION is meant")
        return value


class FetchModel(Component):
    """Take a model of the Hugging Face hub into the store: safetensors, settings, tokenizer."""

    name = "fetch-model"
    image = "train"
    resources = Resources(cpus=1.0, memory_gib=1.0)

    class Inputs(ComponentInputs):
        """None."""

    Config = FetchConfig

    class Outputs(ComponentOutputs):
        """The model."""

        model: Model[CausalLM]
        """Files as they are on the hub; the commit is in the metadata."""

    def run(self, inputs: Inputs, config: FetchConfig, outputs: Outputs, context: Context) -> None:
        import shutil

        from crucible_components.hub.download import download

        name, _, revision = config.model.partition("@")
        snapshot = download(name, revision or None)
        paths = sorted(path for path in snapshot.iterdir() if path.is_file())
        for done, path in enumerate(paths, 1):
            shutil.copyfile(path, outputs.model.new_file(path.name))
            context.progress.update(done, len(paths), unit="files")
        outputs.model.metadata.update(hub_name=name, commit=snapshot.name)
