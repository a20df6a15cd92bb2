"""Component `merge-models`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from crucible.errors import Problem
from crucible.sdk.component import (
    Component,
    ComponentInputs,
    ComponentOutputs,
    Estimate,
    Resources,
)
from crucible.sdk.types import Metrics, Model, Report, SameVariantAs
from crucible_components.merging.config import MergeConfig
from crucible_components.merging.options import MergeOptions

if TYPE_CHECKING:
    from pathlib import Path

    from crucible.sdk.context import Context
    from crucible_components.merging.recipe.schema import MergeFile


_COMMIT = re.compile(r"[0-9a-f]{40}")


class MergeModels(Component):
    """Merge checkpoints into one model, tensor by tensor, by any method of mergekit and more."""

    name = "merge-models"
    image = "train"
    resources = Resources(cpus=1.0, memory_gib=2.0)
    preload = ("crucible_components.merging.preparing",)

    class Inputs(ComponentInputs):
        """Sources and their ancestor."""

        models: list[Model]
        """Checkpoints to merge."""
        base: Model | None
        """Their common ancestor, for methods that merge changes; the result has its settings and
        tokenizer unless the recipe says otherwise."""

    Config = MergeConfig

    class Outputs(ComponentOutputs):
        """The merged model and how it came about."""

        model: Annotated[Model, SameVariantAs("models")]
        """A model folder: weights, settings, tokenizer, model card, the recipe."""
        metrics: Metrics
        """Shares, cosines and sign conflicts over the whole model."""
        report: Report
        """The same by layer and module, with pictures."""

    @classmethod
    def estimate(cls, config: MergeConfig) -> Estimate | None:
        cache_gib = config.cache_mib / 1024 * cls.resources.cpus
        return Estimate(
            memory_gib=round(0.45 + cache_gib, 2),
            formula="0.45 GiB and cache_mib a core, whatever the size of the models",
        )

    def run(self, inputs: Inputs, config: MergeConfig, outputs: Outputs, context: Context) -> None:
        from crucible_components.merging.preparing import prepare
        from crucible_components.merging.reporting import render_report, summary_metrics

        lookup = _named(inputs, config)
        file, text = _merge_file(config, list(lookup), has_base=inputs.base is not None)
        options = _options(config, context)
        with prepare(
            file, text, lookup=lookup, options=options, scratch_dir=context.scratch_dir
        ) as merge:
            folder = context.checkpoint.workspace() or context.scratch_dir / "merge"
            folder.mkdir(exist_ok=True)
            progress = context.progress
            report = merge.run(folder, lambda done, of: progress.update(done, of, unit="tensors"))
            names = [*merge.files, *merge.weight_files]
        _deliver(folder, names, outputs.model)
        metrics = summary_metrics(report.figures, report.sources)
        outputs.metrics.write(metrics)
        context.tracking.log_metrics(metrics)
        outputs.report.new_file("report.html").write_text(render_report(report))
        outputs.model.metadata.update(method=file.merge_method)


def _named(inputs: MergeModels.Inputs, config: MergeConfig) -> dict[str, Model]:
    """The models by the names that the recipe uses."""
    from crucible_components.merging.recipe.parsing import refused

    names = config.model_names or [f"model_{n}" for n in range(1, len(inputs.models) + 1)]
    if len(names) != len(inputs.models):
        message = f"has {len(names)} names for {len(inputs.models)} models."
        raise refused([Problem("model_names", message, "Name each, or leave it out.")])
    lookup = dict(zip(names, inputs.models, strict=True))
    if inputs.base is not None:
        lookup[config.base_name] = inputs.base
    return lookup


def _merge_file(config: MergeConfig, names: list[str], *, has_base: bool) -> tuple[MergeFile, str]:
    """The merge file that the recipe stands for, and its text."""
    import yaml

    from crucible_components.merging.recipe.parsing import refused, validate

    values = config.recipe.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    if config.by_filter:
        values["parameters"] = _by_filter(config, values.get("parameters", {}))
    if not any(values.get(key) for key in ("models", "slices", "modules")):
        values["models"] = [{"model": name} for name in names if name != config.base_name]
    if has_base:
        values.setdefault("base_model", config.base_name)
    file = validate(values)
    if problems := _check_references(file, names):
        raise refused(problems)
    return file, yaml.safe_dump(values, sort_keys=False)


def _by_filter(config: MergeConfig, given: dict[str, Any]) -> dict[str, Any]:
    """The recipe's parameters with those of parts of the model before them."""
    found = dict(given)
    for part, parameters in reversed(config.by_filter.items()):
        for name, value in parameters.items():
            rest = found.get(name, [])
            if not isinstance(rest, list) or not all(isinstance(each, dict) for each in rest):
                rest = [{"value": rest}]
            found[name] = [{"filter": part, "value": value}, *rest]
    return found


def _check_references(file: MergeFile, names: list[str]) -> list[Problem]:
    """What is no input must be named by its content: else the cache gives old results for new."""
    from crucible_components.merging.recipe.references import merged_models, tokenizer_models

    references = [*merged_models(file), *tokenizer_models(file)]
    paths = [path for each in references for path in (each.model, each.lora) if path is not None]
    fix = "Make it an input, by fetch-model for models of the hub, or name its digest or commit."
    return [
        Problem(f"recipe: {path}", "may change unnoticed: it is no input of this step.", fix)
        for path in dict.fromkeys(paths)
        if path.path not in names
        and "@sha256:" not in str(path)
        and not path.path.startswith("artifact:sha256:")
        and not _COMMIT.fullmatch(path.revision or "")
    ]


def _options(config: MergeConfig, context: Context) -> MergeOptions:
    return MergeOptions(
        arithmetic=config.arithmetic,
        random_seed=config.random_seed,
        max_shard_bytes=int(config.max_shard_gb * 1e9),
        threads=max(1, int(context.cpus)),
        cache_bytes=config.cache_mib << 20,
    )


def _deliver(folder: Path, names: list[str], model: Model) -> None:
    """Rename where that is possible, else copy."""
    import shutil

    for name in names:
        shutil.move(folder / name, model.new_file(name))
