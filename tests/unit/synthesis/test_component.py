"""The datasets of one run: repeatable, balanced, disjoint, and free of shortcuts in the text."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from crucible_components.data.records import ImageArchive, Record, read_records
from crucible_components.synthesis.component import SynthesizeScenes
from crucible_components.synthesis.questions import CATEGORIES, GROUPS

DATASETS = ("alignment", "fusion", "instruction", "prompts", "evaluation")


def records_of(run: Any, name: str) -> list[Record]:
    return read_records(getattr(run.outputs, name))


def content(graph: dict[str, Any]) -> tuple[object, ...]:
    """What a scene graph shows, without places; written anew from the record's JSON."""
    figures = sorted((each["shape"], each["color"], each["size"]) for each in graph["figures"])
    digit, sign = graph["digit"], graph["sign"]
    return (
        graph["backdrop"],
        tuple(figures),
        digit["value"] if digit else None,
        sign["word"] if sign else None,
    )


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_equal_seed_gives_equal_bytes_and_another_seed_does_not(
    tmp_path: Path, run_synthesis: Callable[..., Any]
) -> None:
    small = {"num_scenes": 40, "num_prompt_scenes": 20, "num_evaluation_scenes": 20}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_synthesis(tmp_path / name, seed=seed, **small)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    changed = tree(tmp_path / "c")
    assert all(changed[path] != data for path, data in tree(tmp_path / "a").items())


def test_no_picture_is_in_two_datasets(synthesised: Any) -> None:
    images: dict[str, set[str]] = {}
    for name in DATASETS:
        with ImageArchive(getattr(synthesised.outputs, name)) as archive:
            images[name] = set(archive.names())
    for first, second in itertools.combinations(DATASETS, 2):
        assert not images[first] & images[second], (first, second)


def test_every_requested_scene_is_there_once(synthesised: Any) -> None:
    for name, number in (("alignment", 600), ("prompts", 150), ("evaluation", 250)):
        with ImageArchive(getattr(synthesised.outputs, name)) as archive:
            assert len(archive.names()) == number


def test_held_out_contents_are_never_asked_about_in_training(synthesised: Any) -> None:
    held_out = {content(record["scene"]) for record in records_of(synthesised, "evaluation")}
    training = {content(record["scene"]) for record in records_of(synthesised, "prompts")}
    assert len(held_out) > 150
    assert not held_out & training


def test_held_out_digits_come_from_other_hands(synthesised: Any) -> None:
    samples = {
        name: {
            record["scene"]["digit"]["sample"]
            for record in records_of(synthesised, name)
            if record["scene"]["digit"]
        }
        for name in ("prompts", "evaluation")
    }
    assert min(map(len, samples.values())) > 20
    assert not samples["prompts"] & samples["evaluation"]


@pytest.mark.parametrize("name", ["prompts", "evaluation"])
def test_answers_of_every_template_are_balanced(synthesised: Any, name: str) -> None:
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records_of(synthesised, name):
        answers[record["template"]][record["answer"]] += 1
    assert len(answers) > 12
    for template, counts in answers.items():
        assert max(counts.values()) - min(counts.values()) <= 2, (template, counts)


def test_metrics_state_counts_and_baselines_as_found_in_the_records(synthesised: Any) -> None:
    metrics = synthesised.outputs.metrics.read()
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records_of(synthesised, "evaluation"):
        answers[record["category"]][record["answer"]] += 1
    assert set(answers) == set(CATEGORIES)
    for category, counts in answers.items():
        majority = max(counts.values()) / counts.total()
        assert metrics[f"majority_{category}"] == pytest.approx(majority)
        assert metrics[f"questions_{category}"] == counts.total()
        assert all(metrics[f"answers_{category}_{key}"] == n for key, n in counts.items())
    assert metrics["num_fusion_records"] == len(records_of(synthesised, "fusion"))
    assert synthesised.sink.last_metrics == metrics
    assert all(re.fullmatch(r"\w+", key) for key in metrics)


def test_no_category_can_be_answered_by_its_commonest_answer(synthesised: Any) -> None:
    metrics = synthesised.outputs.metrics.read()
    for category in CATEGORIES:
        assert metrics[f"majority_{category}"] <= 0.53, category
        assert metrics[f"blind_{category}"] <= 0.56, category
    assert metrics["blind"] < 0.4


def test_question_text_alone_predicts_no_better_than_the_template(synthesised: Any) -> None:
    """A classifier that reads all words but sees no picture gains nothing over ``blind``."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, test = records_of(synthesised, "prompts"), records_of(synthesised, "evaluation")
    reader = make_pipeline(
        CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+"), LogisticRegression(C=0.3)
    )
    reader.fit([record["question"] for record in train], [record["answer"] for record in train])
    accuracy = reader.score(
        [record["question"] for record in test], [record["answer"] for record in test]
    )
    assert accuracy <= synthesised.outputs.metrics.read()["blind"] + 0.05


def test_conversations_keep_the_published_limits(synthesised: Any) -> None:
    limits = {"SynthTextQA": 5, "SynthContrastShort": 7}
    sets = Counter()
    for record in records_of(synthesised, "fusion"):
        turns = record["conversations"]
        sets[record["category"]] += 1
        assert len(turns) // 2 <= limits.get(record["category"], 8)
        assert turns[0]["value"].startswith("<image>\n")
        short = record["category"] != "SynthConvLong"
        assert turns[0]["value"].endswith(("one word.", "the letter.")) == short
        for answer in turns[1::2]:
            assert (len(answer["value"].split()) == 1) == short
    assert set(sets) == {
        "SynthConvShort",
        "SynthConvLong",
        "SynthMultiChoice",
        "SynthTextQA",
        "SynthContrastShort",
    }
    assert min(sets.values()) > 60


def test_instruction_records_hold_one_group_each(synthesised: Any) -> None:
    groups = Counter(record["category"] for record in records_of(synthesised, "instruction"))
    assert set(groups) == set(GROUPS)
    assert max(groups.values()) - min(groups.values()) <= 60


def test_captions_keep_the_constraints_of_their_set(synthesised: Any) -> None:
    colors = {"red", "green", "blue", "yellow", "purple", "cyan"}
    numbers = {"one": 1, "two": 2, "three": 3, "four": 4}
    relations = re.compile(r"left of|right of|above|below|(top|bottom) (left|right)")
    sets = Counter()
    for record in records_of(synthesised, "alignment"):
        words = re.findall(r"\w+", record["conversations"][1]["value"])
        sets[record["category"]] += 1
        assert len(words) <= 12
        match record["category"]:
            case "SynthColor":
                assert 1 <= len(colors & set(words)) <= 3
            case "SynthCount":
                counted = [numbers[word] for word in words if word in numbers]
                assert 1 <= max(counted) <= 3
                assert sum(counted) <= 6
            case "SynthSpatial":
                assert relations.search(record["conversations"][1]["value"])
            case "SynthScene":
                assert len({"sky", "night", "sand"} & set(words)) == 1
    assert len(sets) == 5


def test_vocabulary_is_small_and_closed(synthesised: Any) -> None:
    words: set[str] = set()
    for name in ("alignment", "fusion", "instruction"):
        for record in records_of(synthesised, name):
            for turn in record["conversations"]:
                words.update(re.findall(r"\w+|[^\w\s]", turn["value"].replace("<image>", "")))
    assert len(words) < 130
    for name in ("prompts", "evaluation"):
        for record in records_of(synthesised, name):
            assert set(re.findall(r"\w+", f"{record['question']} {record['answer']}")) <= words


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("image_size_px", 32),
        ("max_objects", 7),
        ("words", ("horse", "cat")),
        ("words", ("cat", "cat")),
        ("turns_per_conversation", 9),
        ("num_scenes", 0),
        ("colours", 6),
    ],
)
def test_bad_settings_are_refused(setting: str, value: object) -> None:
    with pytest.raises(ValidationError, match=setting):
        SynthesizeScenes.Config(**{setting: value})


def test_larger_and_smaller_worlds_work(tmp_path: Path, run_synthesis: Callable[..., Any]) -> None:
    sizes = {"num_scenes": 25, "num_prompt_scenes": 10, "num_evaluation_scenes": 10}
    wide = run_synthesis(
        tmp_path / "wide", image_size_px=128, max_objects=6, num_colors=8, num_shapes=6, **sizes
    )
    with ImageArchive(wide.outputs.fusion) as archive:
        assert archive.read(archive.names()[0]).shape == (128, 128, 3)
    tiny = run_synthesis(tmp_path / "tiny", max_objects=1, num_colors=3, num_shapes=2, **sizes)
    categories = {record["category"] for record in records_of(tiny, "evaluation")}
    assert {"relation", "comparison"}.isdisjoint(categories)
