"""train-grpo on a pico FUSION model that has learned two answers and guesses between them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from crucible.errors import UserError
from crucible.sdk.component import slots_of
from crucible.sdk.events import EventWriter, read_events
from crucible.sdk.types import ArtifactType, Dataset, Metrics, Model
from crucible.testing.contexts import step_context
from crucible_components.data.folder import FolderBytes
from crucible_components.data.records import DatasetWriter, read_records
from crucible_components.models.fusion import Turn, build_model, load_model, save_model
from crucible_components.models.fusion.tokenizer import train_tokenizer
from crucible_components.rl.component import TrainGrpo

QUESTION = "what color is it?"
COLORS = {"red": (255, 0, 0), "blue": (0, 0, 255)}
SETTINGS = {
    "num_steps": 12,
    "prompts_per_step": 4,
    "group_size": 8,
    "max_new_tokens": 4,
    "max_length_cache": 1,
    "learning_rate": 3e-3,
    "checkpoint_every_steps": 5,
}


def picture(color: str) -> Any:
    return np.full((16, 16, 3), COLORS[color], dtype=np.uint8)


@pytest.fixture(scope="module")
def guesser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that answers red or blue, whatever it sees."""
    tokenizer = train_tokenizer([QUESTION, *COLORS] * 3, vocab_size=300)
    model, processor = build_model(
        "pico",
        tokenizer,
        seed=0,
        text_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "image_size": 16,
        },
        interaction_stride=1,
    )
    encoded = [processor.encode([Turn(QUESTION, answer)]) for _ in COLORS for answer in COLORS]
    batch = processor.collate(encoded, 1)
    pictures = [processor.preprocess(picture(color)) for color in COLORS for _ in COLORS]
    batch["pixel_values"] = torch.from_numpy(np.stack(pictures))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        torch.autograd.backward(model(**batch, query_len=1).loss)
        optimizer.step()
    folder = tmp_path_factory.mktemp("guesser")
    save_model(model, processor, folder)
    return folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    kind = ArtifactType("Dataset", "questions")
    dataset = Dataset("prompts", FolderBytes(tmp_path_factory.mktemp("questions")), kind)
    with DatasetWriter(dataset) as writer:
        for number in range(8):
            color = list(COLORS)[number % 2]
            image = writer.add_image(picture(color))
            category = "color" if number < 6 else "other"
            writer.add_record(
                {
                    "id": f"q{number}",
                    "image": image,
                    "category": category,
                    "question": QUESTION,
                    "answer": color,
                }
            )
    return dataset


class Killed(Exception):
    pass


class KilledAt(EventWriter):
    """Raises when a step is reported, as a kill between two steps would end the process."""

    step: int | None = None

    def log_metrics(self, values: Any, *, step: int = 0) -> None:
        super().log_metrics(values, step=step)
        assert torch.are_deterministic_algorithms_enabled(), "the same input gives the same bytes"
        if step == self.step:
            raise Killed


def train(
    tmp_path: Path,
    model: Path,
    questions: Dataset,
    *,
    killed_at: int | None = None,
    **changes: Any,
) -> TrainGrpo.Outputs:
    predictions = ArtifactType("Dataset", "predictions")
    out = tmp_path / "out"
    outputs = TrainGrpo.Outputs(
        model=Model("model", FolderBytes(out / "model")),
        metrics=Metrics("metrics", FolderBytes(out / "metrics")),
        samples=Dataset("samples", FolderBytes(out / "samples"), predictions),
    )
    events = KilledAt(tmp_path / "events.jsonl")
    events.step = killed_at
    with step_context(tmp_path, seed=3, sink=events) as context:
        inputs = TrainGrpo.Inputs(model=Model("model", FolderBytes(model)), prompts=questions)
        config = TrainGrpo.Config.model_validate(SETTINGS | changes)
        TrainGrpo().run(inputs, config, outputs, context)
        events.close()
    return outputs


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_model_learns_to_look(tmp_path: Path, guesser: Path, questions: Dataset) -> None:
    outputs = train(tmp_path, guesser, questions, num_steps=80)
    metrics = outputs.metrics.read()
    assert 0.3 < metrics["first/rewards/exact_match/mean"] < 0.9
    events, _ = read_events(tmp_path / "events.jsonl")
    logged = [event["values"] for event in events if event["type"] == "metrics"]
    assert len(logged) == 80
    assert logged[0]["rewards/exact_match/mean"] == pytest.approx(0.5, abs=0.2)
    assert logged[-1]["rewards/exact_match/mean"] > 0.9
    assert {"step_time", "tokens_per_second", "time/generate_seconds"} <= set(logged[0])
    trained, _ = load_model(tmp_path / "out" / "model")
    before, after = load_file(guesser / "model.safetensors"), trained.state_dict()
    tower = [name for name in before if name.startswith("vision_tower")]
    assert tower
    assert all(torch.equal(before[name], after[name]) for name in tower)
    assert not torch.equal(before["vision_to_text.fc1.weight"], after["vision_to_text.fc1.weight"])


def test_samples_are_prediction_records_with_pictures(
    tmp_path: Path, guesser: Path, questions: Dataset
) -> None:
    outputs = train(tmp_path, guesser, questions, num_steps=1)
    records = read_records(outputs.samples)
    assert len(records) == 20
    assert {record["answer"] for record in records} <= set(COLORS)
    for record in records:
        assert record["correct"] == (record["prediction"] == record["answer"])
        assert isinstance(record["reward"], float)
        assert record["image"].endswith(".png")


def test_a_killed_step_ends_with_the_same_bytes(
    tmp_path: Path, guesser: Path, questions: Dataset
) -> None:
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    train(tmp_path / "whole", guesser, questions, beta_kl=0.01)
    for step in (4, 7, 11):
        with pytest.raises(Killed):
            train(tmp_path / "killed", guesser, questions, beta_kl=0.01, killed_at=step)
    train(tmp_path / "killed", guesser, questions, beta_kl=0.01)
    whole = contents(tmp_path / "whole" / "out")
    assert contents(tmp_path / "killed" / "out") == whole
    assert {"model/model.safetensors", "model/config.json", "metrics/metrics.json"} <= set(whole)


def test_the_stored_type_is_kept(tmp_path: Path, guesser: Path, questions: Dataset) -> None:
    model, processor = load_model(guesser, dtype=torch.bfloat16)
    save_model(model, processor, tmp_path / "half")
    train(tmp_path, tmp_path / "half", questions, num_steps=1)
    tensors = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    config = json.loads((tmp_path / "out" / "model" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


def test_an_unknown_category_is_named_before_training(
    tmp_path: Path, guesser: Path, questions: Dataset
) -> None:
    with pytest.raises(UserError) as caught:
        train(tmp_path, guesser, questions, categories=["colour"])
    assert "Use some of: color, other." in str(caught.value.problems[0])
    assert not (tmp_path / "out").exists()


def test_contract() -> None:
    inputs = {slot.name: str(slot.type) for slot in slots_of(TrainGrpo.Inputs)}
    assert inputs == {"model": "Model[vision-language]", "prompts": "Dataset[questions]"}
    outputs = {slot.name: str(slot.type) for slot in slots_of(TrainGrpo.Outputs)}
    assert outputs == {
        "model": "Model[vision-language]",
        "metrics": "Metrics",
        "samples": "Dataset[predictions]",
    }


def test_defaults() -> None:
    assert TrainGrpo.Config().model_dump() == {
        "num_steps": 100,
        "prompts_per_step": 16,
        "group_size": 8,
        "categories": None,
        "train_parts": ["vision_to_text", "interaction_layers", "language_model"],
        "temperature": 1.0,
        "max_new_tokens": 16,
        "max_length_cache": 4,
        "max_draws_per_step": 3,
        "max_missing_fraction": 0.5,
        "rewards": {"exact_match": 1.0, "format": 0.1, "overlong": 1.0},
        "loss_type": "dapo",
        "scale_rewards": None,
        "epsilon_low": 0.2,
        "epsilon_high": 0.28,
        "max_ratio": None,
        "beta_kl": 0.0,
        "learning_rate": 1e-6,
        "warmup_steps": 0,
        "max_grad_norm": 1.0,
        "num_minibatches": 1,
        "prompts_per_forward": None,
        "checkpoint_every_steps": 20,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length_cache": 5}, "max_length_cache: 5 is more than max_new_tokens 4"),
        ({"num_minibatches": 5}, "num_minibatches: 5 is more than prompts_per_step 4"),
        ({"group_size": 1}, "greater than or equal to 2"),
        ({"rewards": {"exact_match": 0, "format": 0, "overlong": 0}}, "every weight is 0"),
        ({"train_parts": ["eyes"]}, "vision_tower"),
        ({"beta": 0.1}, "Extra inputs are not permitted"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainGrpo.Config.model_validate(SETTINGS | changes)
