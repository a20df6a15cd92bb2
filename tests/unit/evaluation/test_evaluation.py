"""Whole evaluations: a fake model with known mistakes, and a real untrained one."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible.errors import UserError
from crucible.sdk.types import ArtifactType, Dataset, Model
from crucible_components.data.folder import FolderBytes
from crucible_components.data.records import read_records
from crucible_components.evaluation.answering import FusionResponder

Run = Callable[..., Any]


def some(share: int) -> Callable[[str], bool]:
    """True for about one in ``share`` questions, by their text."""
    return lambda question: zlib.crc32(question.encode()) % share == 0


def test_perfect_model_gets_everything_right(run_evaluation: Run, fake_responder: Any) -> None:
    found = run_evaluation(fake_responder())
    assert found.metrics["accuracy"] == 1.0
    assert found.metrics["auc_yes_no"] == 1.0
    assert found.metrics["majority_existence"] == 0.5
    assert found.metrics["majority_color"] == pytest.approx(1 / 3)
    assert found.metrics["calibration_error"] == pytest.approx(0.1)
    assert found.metrics["accuracy_low"] > 0.95  # Wilson's, not [1, 1]
    assert found.metrics["accuracy_high"] == 1.0


def test_metrics_are_those_of_the_predictions(run_evaluation: Run, fake_responder: Any) -> None:
    found = run_evaluation(fake_responder(wrong=some(3)))
    records = read_records(found.outputs.predictions)
    assert len(records) == 120
    for category in ("color", "existence", "choice"):
        verdicts = [each["correct"] for each in records if each["category"] == category]
        assert 0.3 < np.mean(verdicts) < 0.95
        assert found.metrics[f"accuracy_{category}"] == pytest.approx(np.mean(verdicts))
        low, high = (found.metrics[f"accuracy_{category}_{end}"] for end in ("low", "high"))
        assert low < np.mean(verdicts) < high
    macro = np.mean([found.metrics[f"accuracy_{c}"] for c in ("color", "existence", "choice")])
    assert found.metrics["accuracy_macro"] == pytest.approx(macro)
    assert found.sink.progress[-1] == (120, 120)


def test_predictions_keep_order_text_answer_and_rule(
    run_evaluation: Run, fake_responder: Any, questions: Dataset
) -> None:
    found = run_evaluation(fake_responder())
    records = read_records(found.outputs.predictions)
    assert [each["id"] for each in records] == [each["id"] for each in read_records(questions)]
    assert records[0]["text"] == "Red"
    assert (records[0]["prediction"], records[0]["rule"]) == ("Red", "text")
    assert (records[3]["prediction"], records[3]["rule"]) == ("A", "last-letter")
    assert "probability_yes" not in records[0]
    assert records[1]["probability_yes"] == pytest.approx(8 / 9, abs=1e-4)


def test_batch_size_and_order_do_not_change_the_result(
    run_evaluation: Run, fake_responder: Any
) -> None:
    outputs = [
        run_evaluation(fake_responder(wrong=some(4)), batch_size=size).outputs
        for size in (1, 7, 500)
    ]
    for name, file in (
        ("predictions", "records.jsonl"),
        ("metrics", "metrics.json"),
        ("report", "report.html"),
    ):
        contents = {getattr(each, name).local_path(file).read_bytes() for each in outputs}
        assert len(contents) == 1, name


def test_questions_about_a_picture_share_a_batch(run_evaluation: Run, fake_responder: Any) -> None:
    responder = fake_responder()
    run_evaluation(responder, batch_size=40)
    assert [len(call) for call in responder.calls] == [40, 40, 40]
    assert responder.pictures == [10, 10, 10]


def test_limit_asks_the_first_questions_only(run_evaluation: Run, fake_responder: Any) -> None:
    found = run_evaluation(fake_responder(), limit=10)
    assert found.metrics["num_questions"] == 10


def test_a_better_model_is_told_from_its_baseline(run_evaluation: Run, fake_responder: Any) -> None:
    before = run_evaluation(fake_responder(wrong=some(2)))
    after = run_evaluation(fake_responder(wrong=some(6)), baseline=before.outputs.predictions)
    gain = after.metrics["accuracy"] - before.metrics["accuracy"]
    assert after.metrics["difference"] == pytest.approx(gain)
    assert after.metrics["difference_low"] > 0
    assert after.metrics["mcnemar_p"] < 0.01
    assert after.metrics["accuracy_baseline"] == pytest.approx(before.metrics["accuracy"])
    same = run_evaluation(fake_responder(wrong=some(2)), baseline=before.outputs.predictions)
    assert (same.metrics["difference"], same.metrics["mcnemar_p"]) == (0.0, 1.0)


def test_a_baseline_of_other_questions_is_refused_before_the_model_is_loaded(
    run_evaluation: Run, fake_responder: Any
) -> None:
    short = run_evaluation(fake_responder(), limit=100).outputs.predictions
    path = short.source.folder / "records.jsonl"
    lines = path.read_text().splitlines()
    changed = json.loads(lines[5]) | {"answer": "other"}
    path.write_text("\n".join([*lines[:5], json.dumps(changed), *lines[6:]]) + "\n")
    untouched = fake_responder()
    with pytest.raises(UserError) as caught:
        run_evaluation(untouched, baseline=short)
    assert "20 of 120 ids have no prediction" in str(caught.value)
    assert "1 of 120 ids have another question or answer, first 'q1-1'" in str(caught.value)
    assert not untouched.calls


def test_unusable_question_sets_are_refused(
    tmp_path: Path, run_evaluation: Run, fake_responder: Any
) -> None:
    def refused(*records: dict[str, str]) -> str:
        (tmp_path / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        dataset = Dataset("d", FolderBytes(tmp_path), ArtifactType("Dataset", "questions"))
        with pytest.raises(UserError) as caught:
            run_evaluation(fake_responder(), dataset=dataset)
        return str(caught.value)

    base = {"question": "x?", "answer": "y"}
    assert "holds no questions" in refused()
    assert "'a' stands 2 times" in refused(*[{"id": "a", "category": "c", **base}] * 2)
    clash = refused(
        {"id": "a", "category": "left of", **base}, {"id": "b", "category": "left-of", **base}
    )
    assert "'left_of' does not give metric names of its own" in clash
    assert "'low'" in refused({"id": "a", "category": "low", **base})


class Outline(HTMLParser):
    """What a page contains and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_report_shows_tables_samples_and_fetches_nothing(
    run_evaluation: Run, fake_responder: Any
) -> None:
    before = run_evaluation(fake_responder(wrong=some(2)))
    found = run_evaluation(fake_responder(wrong=some(5)), baseline=before.outputs.predictions)
    outline = Outline()
    outline.feed(found.outputs.report.local_path("report.html").read_text())
    assert all(target.startswith(("#", "data:image/png")) for target in outline.targets)
    assert outline.tags.count("img") == 24
    assert outline.tags.count("table") == 4  # by category, and three confusion matrices
    text = " ".join(outline.text)
    assert "AUC of yes/no" in text
    assert "Against baseline" in text
    assert "script" not in outline.tags


def test_markup_in_questions_and_answers_is_text_in_the_report(
    tmp_path: Path, run_evaluation: Run, fake_responder: Any, questions: Dataset
) -> None:
    records = read_records(questions)
    records[0]["question"] = "what <script>alert(1)</script> color?"
    records[0]["category"] = '"><img src=x onerror=alert(1)>'
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (questions.source.folder / "records.jsonl").write_text(lines)
    report = run_evaluation(fake_responder()).outputs.report
    page = report.local_path("report.html").read_text()
    outline = Outline()
    outline.feed(page)
    assert "script" not in outline.tags
    assert "x" not in outline.targets
    assert "&lt;script&gt;" in page


@pytest.fixture
def untrained_model(tmp_path: Path, questions: Dataset) -> Model:
    from crucible_components.models.fusion import build_model, save_model
    from crucible_components.models.fusion.tokenizer import train_tokenizer

    words = [record["question"] for record in read_records(questions)]
    tokenizer = train_tokenizer([*words, "red green blue yes no A B C"], vocab_size=400)
    model, processor = build_model("pico", tokenizer, seed=0)
    folder = tmp_path / "model"
    folder.mkdir()
    save_model(model, processor, folder)
    return Model("model", FolderBytes(folder), ArtifactType("Model", "vision-language"))


@pytest.mark.slow
def test_a_real_model_is_evaluated_alike_in_any_batching(
    run_evaluation: Run, untrained_model: Model
) -> None:
    small, large = (
        run_evaluation(None, model=untrained_model, batch_size=size, limit=12, max_new_tokens=3)
        for size in (5, 64)
    )
    texts = [[r["text"] for r in read_records(e.outputs.predictions)] for e in (small, large)]
    assert texts[0] == texts[1]
    assert small.metrics["accuracy"] == large.metrics["accuracy"]
    assert 0 <= small.metrics["auc_yes_no"] <= 1


@pytest.mark.slow
def test_option_probabilities_do_not_depend_on_company(untrained_model: Model) -> None:
    responder = FusionResponder(untrained_model.local_dir())
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(3)]
    asked = ["what color has picture 1?", "is it red?", "which one is it, of all these?"]
    options = ["yes", "no", "green"]
    together = responder.option_logprobs(images, asked, options)
    alone = [
        [responder.option_logprobs([image], [text], [option])[0, 0] for option in options]
        for image, text in zip(images, asked, strict=True)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert (together < 0).all()
    assert np.exp(together).sum(axis=1).max() <= 1
