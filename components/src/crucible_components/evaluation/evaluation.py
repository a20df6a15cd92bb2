"""One evaluation from artifacts to artifacts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from crucible_components.data.records import DatasetWriter, ImageArchive, read_records
from crucible_components.evaluation.answering import Answered, FusionResponder, Responder, ask_all
from crucible_components.evaluation.report import render_report
from crucible_components.evaluation.summary import (
    check_questions,
    match_baseline,
    summarise,
)
from crucible_components.evaluation.uncertainty import Bootstrap

if TYPE_CHECKING:
    from crucible.sdk.context import Context
    from crucible_components.evaluation.component import EvaluateModel

logger = logging.getLogger(__name__)


def evaluate(
    inputs: EvaluateModel.Inputs,
    config: EvaluateModel.Config,
    outputs: EvaluateModel.Outputs,
    context: Context,
    *,
    load: Callable[[Path], Responder] = FusionResponder,
) -> None:
    """Answer, score, compare and write. ``load`` opens the folder of the model.

    Raises:
        UserError: the questions or the baseline cannot be used; found before the model is loaded.
    """
    questions = read_records(inputs.dataset)[: config.limit]
    check_questions(questions)
    baseline = None
    if inputs.baseline is not None:
        baseline = match_baseline(questions, read_records(inputs.baseline))
    responder = load(inputs.model.local_dir())
    bootstrap = Bootstrap(config.num_bootstrap, config.confidence, context.seed_for("bootstrap"))
    with ImageArchive(inputs.dataset) as archive:
        started = time.monotonic()
        answered = ask_all(
            responder,
            questions,
            archive,
            max_new_tokens=config.max_new_tokens,
            batch_size=config.batch_size,
            on_batch=lambda done: context.progress.update(done, len(questions), unit="questions"),
        )
        seconds = time.monotonic() - started
        summary = summarise(answered, baseline, bootstrap)
        page = render_report(
            answered,
            summary,
            archive,
            confidence=config.confidence,
            num_samples=config.num_samples,
        )
    with DatasetWriter(outputs.predictions) as writer:
        for each in answered:
            writer.add_record(each.to_record())
    metrics = summary.metrics()
    outputs.metrics.write(metrics)
    outputs.report.new_file("report.html").write_text(page, encoding="utf-8")
    context.tracking.log_metrics(metrics)
    _log_speed(answered, seconds, context)


def _log_speed(answered: list[Answered], seconds: float, context: Context) -> None:
    tokens = sum(each.response.num_tokens for each in answered)
    logger.info(
        "answered %d questions in %.1f s: %.0f questions/s, %.0f new tokens/s",
        len(answered),
        seconds,
        len(answered) / seconds,
        tokens / seconds,
    )
    # Speed depends on the machine, so it goes to tracking and not into the metrics artifact.
    context.tracking.log_metrics({"time/questions_per_second": len(answered) / seconds})
