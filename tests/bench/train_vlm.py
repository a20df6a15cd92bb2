"""Tokens a second of train-vlm's loop, beside a plain transformers Trainer on the same model.

Every contender starts from the same conversations on disk and the same initial pico model, and goes
once over all samples in as many steps. Its clock holds everything from there: reading records,
decoding pictures, tokenising, every update. Ours runs with the pico defaults of stage fusion, but
AdamW. The Trainer runs with its own: samples in random order, each with its own picture, padded to
the longest of the batch, decoded and tokenised when the batch wants them; in float32, and in
bfloat16 autocast where ours computes in bfloat16. The peer is the faster of these. "ready" is the
same Trainer on samples that were all decoded and tokenised before, as ours are.

Tokens are the positions of a batch that are no padding, counted alike for all; the numbers of
latents are drawn in the same order. The Trainer needs ``accelerate``, which nothing else in the
project does. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import copy
import functools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import interleaved, print_result
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.utils import is_accelerate_available

from crucible.sdk.types import ArtifactType, Conversations, Dataset, Metrics
from crucible.testing.contexts import step_context
from crucible_components.data.folder import FolderBytes
from crucible_components.data.records import ImageArchive, read_records
from crucible_components.models.fusion import (
    FusionForConditionalGeneration,
    FusionProcessor,
    Turn,
    build_model,
)
from crucible_components.models.fusion.layout import EncodedConversation
from crucible_components.models.fusion.tokenizer import train_tokenizer
from crucible_components.synthesis.component import SynthesizeScenes
from crucible_components.training.batching import draw_query_len, num_batches
from crucible_components.training.config import STAGE_DEFAULTS, TrainVlmConfig
from crucible_components.training.dataset import (
    TrainingSet,
    load_training_set,
    split_turns,
    training_texts,
    turns_of,
)
from crucible_components.training.loop import StepValues, train
from crucible_components.training.precision import resolve_precision
from crucible_components.training.stage import resolve_settings

GOAL = 1.3
SEED = 0
CONFIG = TrainVlmConfig(stage="fusion", optimizer="adamw")
DEFAULTS = STAGE_DEFAULTS["pico"]["fusion"]

Sample = tuple[EncodedConversation, Tensor]
"""A conversation's ids and the crops of its picture."""


@dataclass(frozen=True)
class Task:
    """What all contenders are given."""

    dataset: Dataset[Conversations]
    model: FusionForConditionalGeneration
    processor: FusionProcessor
    turns_per_sample: int | None
    folder: Path

    def load(self) -> TrainingSet:
        return load_training_set(
            self.dataset, self.processor, turns_per_sample=self.turns_per_sample
        )


class CountingCollator:
    """The processor's ``collate``, with the tokens that went through it."""

    def __init__(self, processor: FusionProcessor) -> None:
        self._collate, self._pad = processor.collate, processor.pad_token_id
        self.num_tokens = 0
        self.num_steps = 0
        self.num_positions = 0

    def __call__(
        self, conversations: Sequence[EncodedConversation], query_len: int
    ) -> dict[str, Tensor]:
        batch = self._collate(conversations, query_len)
        self.num_tokens += int((batch["input_ids"] != self._pad).sum())
        self.num_positions += batch["input_ids"].numel()
        self.num_steps += 1
        return batch


class LazySamples(torch.utils.data.Dataset[Sample]):
    """One row a sample; its picture is decoded and its text tokenised when it is asked for."""

    def __init__(self, task: Task) -> None:
        self._processor = task.processor
        self._archive = ImageArchive(task.dataset)
        self._rows: list[tuple[str, list[Turn]]] = [
            (str(record["image"]), turns)
            for record in read_records(task.dataset)
            for turns in split_turns(turns_of(record), task.turns_per_sample)
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        image, turns = self._rows[index]
        pixels = self._processor.preprocess(self._archive.read_picture(image))
        return self._processor.encode(turns), torch.from_numpy(pixels)


class ReadySamples(torch.utils.data.Dataset[Sample]):
    """One row a sample, all of it decoded and tokenised before."""

    def __init__(self, task: Task) -> None:
        data = task.load()
        self._rows = [
            (sample, data.pixels_N[row])
            for row, samples in zip(data.picture_of, data.examples, strict=True)
            for sample in samples
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        return self._rows[index]


def tokens_per_second_of_ours(task: Task) -> float:
    model, processor = copy.deepcopy(task.model), copy.copy(task.processor)
    processor.collate = collator = CountingCollator(processor)
    losses: list[float] = []

    def monitor(_: int, values: StepValues) -> None:
        losses.append(values.losses["total"])

    with (
        tempfile.TemporaryDirectory(dir=task.folder) as folder,
        step_context(Path(folder)) as context,
    ):
        began = time.perf_counter()
        data = task.load()
        settings = resolve_settings(CONFIG, model, data, seed=SEED)
        train(model, processor, data, settings, checkpoints=context.checkpoint, monitor=monitor)
        elapsed = time.perf_counter() - began
    describe("ours", collator, statistics.mean(losses))
    return collator.num_tokens / elapsed


def tokens_per_second_of_trainer(
    task: Task,
    make_samples: Callable[[Task], torch.utils.data.Dataset[Sample]],
    *,
    batch_size: int,
    bf16: bool,
) -> float:
    model = copy.deepcopy(task.model).train()
    collator = CountingCollator(task.processor)

    def collate(samples: list[Sample]) -> dict[str, Any]:
        query_len = draw_query_len(model.config.query_lens, seed=SEED, step=collator.num_steps)
        batch = collator([encoded for encoded, _ in samples], query_len)
        pixels = torch.stack([pixels for _, pixels in samples])
        return {**batch, "pixel_values": pixels, "query_len": query_len}

    arguments = TrainingArguments(
        output_dir=str(task.folder / "trainer"),
        num_train_epochs=1,
        per_device_train_batch_size=batch_size,
        learning_rate=DEFAULTS.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=CONFIG.warmup_ratio,
        bf16=bf16,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    began = time.perf_counter()
    trainer = Trainer(model, arguments, collate, make_samples(task))
    trainer.remove_callback(PrinterCallback)
    loss = trainer.train().training_loss
    elapsed = time.perf_counter() - began
    describe("Trainer", collator, loss)
    return collator.num_tokens / elapsed


def describe(name: str, collator: CountingCollator, loss: float) -> None:
    padding = 1 - collator.num_tokens / collator.num_positions
    print(
        f"  {name}: {collator.num_steps} steps, {collator.num_tokens} tokens, "
        f"{padding:.1%} padding, mean loss {loss:.2f}"
    )


def synthesise(folder: Path, num_scenes: int) -> Dataset[Conversations]:
    """The fusion set of so many scenes."""
    artifacts: dict[str, Any] = {"metrics": Metrics("metrics", FolderBytes(folder / "metrics"))}
    for name in ("alignment", "fusion", "instruction", "prompts", "evaluation"):
        variant = "questions" if name in ("prompts", "evaluation") else "conversations"
        artifacts[name] = Dataset(
            name, FolderBytes(folder / name), ArtifactType("Dataset", variant)
        )
    outputs = SynthesizeScenes.Outputs(**artifacts)
    config = SynthesizeScenes.Config(
        num_scenes=num_scenes, num_prompt_scenes=1, num_evaluation_scenes=1
    )
    with step_context(folder, seed=SEED) as context:
        SynthesizeScenes().run(SynthesizeScenes.Inputs(), config, outputs, context)
    return outputs.fusion


def make_task(folder: Path, num_scenes: int, turns_per_sample: int | None) -> Task:
    dataset = synthesise(folder / "data", num_scenes)
    tokenizer = train_tokenizer(training_texts([dataset]), vocab_size=512)
    model, processor = build_model("pico", tokenizer, seed=SEED)
    return Task(dataset, model, processor, turns_per_sample, folder)


def measure(task: Task, num_rounds: int) -> dict[str, list[float]]:
    """Tokens a second by contender."""
    data = task.load()
    num_samples = sum(map(len, data.examples))
    batch_size = math.ceil(num_samples / num_batches(data.is_text_only, DEFAULTS.batch_size))
    dtype = resolve_precision(CONFIG.precision, task.model.device)
    print(
        f"{len(data)} conversations in {num_samples} samples, {batch_size} a step; "
        f"{torch.get_num_threads()} threads, ours in {str(dtype).removeprefix('torch.')}"
    )
    contenders = {"ours": functools.partial(tokens_per_second_of_ours, task)}
    for state, make_samples in (("", LazySamples), (", ready", ReadySamples)):
        for precision in ("float32", "bfloat16")[: 1 + (dtype == torch.bfloat16)]:
            contenders[f"Trainer {precision}{state}"] = functools.partial(
                tokens_per_second_of_trainer,
                task,
                make_samples,
                batch_size=batch_size,
                bf16=precision == "bfloat16",
            )
    return interleaved(contenders, num_rounds=num_rounds)


def fastest(figures: dict[str, list[float]], *, ready: bool) -> tuple[str, list[float]]:
    """The faster Trainer, on samples that were made ready before or not."""
    peers = [
        item
        for item in figures.items()
        if item[0] != "ours" and item[0].endswith(", ready") == ready
    ]
    return max(peers, key=lambda item: statistics.median(item[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=160, help="conversations; steps follow")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--whole", action="store_true", help="do not cut conversations by turns")
    options = parser.parse_args()
    if not is_accelerate_available():
        parser.error("transformers' Trainer needs accelerate. Install it: pip install accelerate")
    torch.set_num_threads(options.threads)
    turns_per_sample = None if options.whole else DEFAULTS.turns_per_sample
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(make_task(Path(folder), options.scenes, turns_per_sample), options.rounds)
    peer, values = fastest(figures, ready=False)
    _, ready_values = fastest(figures, ready=True)
    ours = figures["ours"]
    print_result(
        "train_vlm",
        ours=ours,
        peer=values,
        goal=GOAL,
        higher_is_better=True,
        unit="tokens/s",
        peer_is=peer,
        ratio_ready_data=round(statistics.median(ours) / statistics.median(ready_values), 3),
        turns_per_sample=turns_per_sample,
        threads=options.threads,
    )


if __name__ == "__main__":
    main()
