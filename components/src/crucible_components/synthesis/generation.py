"""All five datasets of one configuration and seed, and the numbers that describe them."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from crucible.sdk.types import Conversations, Dataset, Questions
from crucible_components.data.records import DatasetWriter
from crucible_components.data.schema import Record
from crucible_components.synthesis.conversations import (
    Stream,
    alignment_stream,
    fusion_stream,
    instruction_stream,
    question_stream,
)
from crucible_components.synthesis.questions import CATEGORIES
from crucible_components.synthesis.sampling import SceneSampler
from crucible_components.synthesis.scene import COLORS, SHAPES, World

if TYPE_CHECKING:
    from crucible.sdk.context import Context
    from crucible_components.synthesis.component import SynthesizeScenes


def world_of(config: SynthesizeScenes.Config) -> World:
    """The world that a configuration describes."""
    return World(
        size_px=config.image_size_px,
        max_figures=config.max_objects,
        colors=COLORS[: config.num_colors],
        shapes=SHAPES[: config.num_shapes],
        words=config.words,
    )


def synthesize(
    config: SynthesizeScenes.Config, outputs: SynthesizeScenes.Outputs, context: Context
) -> dict[str, float]:
    """Write every dataset of ``outputs`` and return their metrics.

    Raises:
        UserError: the configured world holds fewer scenes than were asked for.
    """
    world = world_of(config)
    # One sampler for all training sets: it draws no scene twice, so none is shared between them.
    training = SceneSampler(world, random.Random(context.seed_for("training scenes")))
    held_out = SceneSampler(
        world, random.Random(context.seed_for("held-out scenes")), held_out=True
    )

    def rng(purpose: str) -> random.Random:
        return random.Random(context.seed_for(purpose))

    scenes, turns, per_scene = (
        config.num_scenes,
        config.turns_per_conversation,
        config.questions_per_scene,
    )
    streams: list[tuple[Dataset[Conversations] | Dataset[Questions], Stream, int]] = [
        (
            outputs.alignment,
            alignment_stream(training, scenes, config.captions_per_scene, rng("captions")),
            scenes,
        ),
        (outputs.fusion, fusion_stream(training, scenes, turns, rng("fusion")), scenes),
        (
            outputs.instruction,
            instruction_stream(training, scenes, turns, rng("instruction")),
            scenes,
        ),
        (
            outputs.prompts,
            question_stream(
                training, config.num_prompt_scenes, per_scene, rng("prompts"), name="prompts"
            ),
            config.num_prompt_scenes,
        ),
        (
            outputs.evaluation,
            question_stream(
                held_out,
                config.num_evaluation_scenes,
                per_scene,
                rng("evaluation"),
                name="evaluation",
            ),
            config.num_evaluation_scenes,
        ),
    ]
    return _write_all(streams, context)


def _write_all(
    streams: Sequence[tuple[Dataset[Conversations] | Dataset[Questions], Stream, int]],
    context: Context,
) -> dict[str, float]:
    total = sum(num_scenes for *_, num_scenes in streams)
    done = 0
    sizes: dict[str, float] = {}
    written: dict[str, list[Record]] = {}

    def advance() -> None:
        nonlocal done
        done += 1
        context.progress.update(done, total, unit="scenes")

    for dataset, stream, _ in streams:
        written[dataset.name] = records = _write(dataset, stream, advance)
        sizes[f"num_{dataset.name}_records"] = len(records)
        sizes[f"num_{dataset.name}_images"] = float(dataset.metadata["num_images"])
        turns = sum(len(record.get("conversations", ())) // 2 for record in records)
        sizes[f"num_{dataset.name}_answers"] = turns or len(records)
    return answer_metrics(written["evaluation"], written["prompts"]) | sizes


def _write(
    dataset: Dataset[Conversations] | Dataset[Questions],
    stream: Stream,
    advance: Callable[[], None],
) -> list[Record]:
    records = []
    with DatasetWriter(dataset) as writer:
        for picture, found in stream:
            image = writer.add_image(picture)
            for record in found:
                complete = {"id": record["id"], "image": image, **record}
                writer.add_record(complete)
                records.append(complete)
            advance()
    return records


def answer_metrics(evaluation: Iterable[Record], training: Iterable[Record]) -> dict[str, float]:
    """What can be scored without looking at a picture, and how often each answer is right.

    ``majority_<category>`` is the share of the category's commonest answer; ``blind_<category>``
    the accuracy of the commonest answer that ``training`` gives to the question's template.
    """
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    by_template: dict[str, Counter[str]] = defaultdict(Counter)
    for record in training:
        by_template[record["template"]][record["answer"]] += 1
    guessed: Counter[str] = Counter()
    for record in evaluation:
        category, answer = record["category"], record["answer"]
        answers[category][answer] += 1
        commonest = by_template[record["template"]].most_common(1)
        guessed[category] += bool(commonest) and commonest[0][0] == answer
    overall = sum(answers.values(), Counter[str]())
    metrics = {
        "majority": max(overall.values()) / overall.total(),
        "blind": guessed.total() / overall.total(),
    }
    for category in (each for each in CATEGORIES if each in answers):
        counts = answers[category]
        metrics[f"majority_{category}"] = max(counts.values()) / counts.total()
        metrics[f"blind_{category}"] = guessed[category] / counts.total()
        metrics[f"questions_{category}"] = counts.total()
        metrics.update(
            {f"answers_{category}_{answer}": number for answer, number in sorted(counts.items())}
        )
    return metrics
