import random
from typing import Any

import pytest
from sklearn.metrics import confusion_matrix, roc_curve

from crucible.sdk.pod.classification import classification_of


def record(answer: str, prediction: str, probability_yes: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"answer": answer, "prediction": prediction}
    return found if probability_yes is None else found | {"probability_yes": probability_yes}


def test_the_matrix_is_that_of_scikit_learn() -> None:
    rng = random.Random(3)
    labels = ["blue", "green", "red"]
    records = [record(rng.choice(labels), rng.choice(labels)) for _ in range(200)]
    found = classification_of(records)["confusionMatrix"]
    names = [spec["displayName"] for spec in found["annotationSpecs"]]
    assert names == [*labels, "other"]
    wanted = confusion_matrix(
        [r["answer"] for r in records], [r["prediction"] for r in records], labels=labels
    )
    assert [row["row"][:3] for row in found["rows"][:3]] == wanted.tolist()


def test_what_is_no_answer_is_other() -> None:
    records = [record("yes", "maybe"), record("yes", "yes")]
    rows = classification_of(records)["confusionMatrix"]["rows"]
    assert [row["row"] for row in rows] == [[1, 1], [0, 0]]


def test_rare_answers_share_a_row() -> None:
    records = [record(f"word{number}", "x") for number in range(30) for _ in range(30 - number)]
    found = classification_of(records)["confusionMatrix"]
    assert len(found["rows"]) == 13
    assert sum(sum(row["row"]) for row in found["rows"]) == len(records)


def test_the_curve_is_that_of_scikit_learn() -> None:
    rng = random.Random(5)
    records = [record(rng.choice(["yes", "no"]), "yes", round(rng.random(), 1)) for _ in range(300)]
    points = classification_of(records)["confidenceMetrics"]
    rates = {(p["falsePositiveRate"], p["recall"]) for p in points}
    false_positive, true_positive, _ = roc_curve(
        [r["answer"] == "yes" for r in records],
        [r["probability_yes"] for r in records],
        drop_intermediate=False,
    )
    assert rates == set(zip(false_positive.tolist(), true_positive.tolist(), strict=True))


def test_a_long_curve_is_thinned_but_keeps_its_ends() -> None:
    rng = random.Random(7)
    records = [record(rng.choice(["yes", "no"]), "yes", rng.random()) for _ in range(1000)]
    points = classification_of(records)["confidenceMetrics"]
    assert len(points) <= 51
    assert (points[0]["recall"], points[0]["falsePositiveRate"]) == (0.0, 0.0)
    assert (points[-1]["recall"], points[-1]["falsePositiveRate"]) == (1.0, 1.0)
    recalls = [point["recall"] for point in points]
    assert recalls == sorted(recalls)


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_one_class_has_no_curve(answer: str) -> None:
    assert "confidenceMetrics" not in classification_of([record(answer, "yes", 0.4)] * 3)


def test_nothing_is_nothing() -> None:
    assert classification_of([]) == {}
