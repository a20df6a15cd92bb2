"""Component `merge-models`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from crucible.errors import Problem, UserError
from crucible.sdk.component import (
    Component,
    ComponentInputs,
    ComponentOutputs,
    Resources,
)
from crucible.sdk.types import Metrics, Model, Report, SameVariantAs
from crucible_components.merging.config import MergeConfig

if TYPE_CHECKING:
    from crucible.sdk.context import Context


class MergeModels(Component):
    """Merge checkpoints that share one base into one model, tensor by tensor."""

    name = "merge-models"
    image = "train"
    resources = Resources(cpus=1.0, memory_gib=2.0)
    preload = ("crucible_components.merging.apply",)

    class Inputs(ComponentInputs):
        """Sources and their ancestor."""

        models: list[Model]
        """Two or more checkpoints that were fine-tuned from ``base``."""
        base: Model
        """Their common ancestor; config, tokenizer and all other files are taken from it."""

    Config = MergeConfig

    class Outputs(ComponentOutputs):
        """The merged model and how it came about."""

        model: Annotated[Model, SameVariantAs("models")]
        """A folder like the base's with merged weights."""
        metrics: Metrics
        """Shares, cosine and sign conflicts over the whole model."""
        report: Report
        """The same by module."""

    def run(self, inputs: Inputs, config: MergeConfig, outputs: Outputs, context: Context) -> None:
        from contextlib import ExitStack

        from crucible_components.merging.apply import apply_merge
        from crucible_components.merging.folder import check_folders, copy_base_files
        from crucible_components.merging.plan import check_values, plan_merge
        from crucible_components.merging.report import render_report, summary_metrics
        from crucible_components.models.weights import TensorReader

        with ExitStack() as stack:
            base = stack.enter_context(TensorReader(inputs.base))
            sources = [stack.enter_context(TensorReader(model)) for model in inputs.models]
            plan = plan_merge(sources, base, config.dtype)
            problems = [
                *_check_count(inputs.models),
                *check_folders(inputs.models, inputs.base),
                *plan.problems,
                *check_values(plan, sources, base),
            ]
            if problems:
                raise UserError(f"models: cannot be merged ({len(problems)} problems).", problems)
            copy_base_files(inputs.base, outputs.model, config.dtype)
            total = len(plan.tensors)
            records = apply_merge(
                plan,
                sources,
                base,
                method=config.method,
                new_file=outputs.model.new_file,
                on_tensor=lambda done: context.progress.update(done, total, unit="tensors"),
            )
        metrics = summary_metrics(records)
        outputs.metrics.write(metrics)
        context.tracking.log_metrics(metrics)
        settings = config.method.model_dump(exclude={"name"})
        words = ", ".join(f"{key} {value}" for key, value in settings.items())
        page = render_report(records, method=f"{config.method.name}: {words}")
        outputs.report.new_file("report.html").write_text(page)
        outputs.model.metadata.update(method=config.method.name, **settings)


def _check_count(models: list[Model]) -> list[Problem]:
    if len(models) >= 2:
        return []
    message = f"got {len(models)}; a merge needs at least two."
    return [Problem(path="models", message=message, fix="List two or more models.")]
