"""Reading metrics and predictions: what becomes a scored answer, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crucible.artifacts.store import Store, open_store
from crucible.errors import ArtifactNotFound, UserError
from crucible.registry.evidence import read_answers, read_champion_answers, read_metrics


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


def put(store: Store, folder: Path, name: str, text: str) -> str:
    (folder / "put").mkdir()
    (folder / "put" / name).write_text(text)
    return store.put_tree(folder / "put", type="Dataset", variant="predictions").digest


def test_records_become_scored_answers(store: Store, tmp_path: Path) -> None:
    records = [
        {"id": "a", "category": "colour", "question": "?", "answer": "red", "correct": True},
        {"id": 7, "question": "?", "answer": "red", "correct": 0.25, "image": "3.png"},
        {"id": "c", "question": "?", "answer": "blue", "correct": 0},
    ]
    text = "\n".join(map(json.dumps, records)) + "\n\n"
    found = read_answers(store, put(store, tmp_path, "records.jsonl", text))
    assert {i: a.score for i, a in found.items()} == {"a": 1.0, "7": 0.25, "c": 0.0}
    assert (found["a"].category, found["7"].cluster, found["a"].cluster) == ("colour", "3.png", "")
    assert found["a"].task == found["7"].task != found["c"].task


def test_bad_records_are_counted_and_named(store: Store, tmp_path: Path) -> None:
    records: list[object] = [
        {"id": "a", "correct": True},
        {"id": "a", "correct": False},
        {"correct": True},
        {"id": "d", "correct": "yes"},
        {"id": "e", "correct": 1.5},
        ["f"],
    ]
    digest = put(store, tmp_path, "records.jsonl", "\n".join(map(json.dumps, records)))
    with pytest.raises(UserError) as raised:
        read_answers(store, digest)
    told = str(raised.value)
    assert "5 bad records" in told
    assert "line 2: id 'a' twice" in told
    assert "line 3: no id" in told
    assert "line 4: correct is 'yes'" in told
    assert "line 5: correct is 1.5" in told


def test_lines_that_are_no_json_are_the_users(store: Store, tmp_path: Path) -> None:
    digest = put(store, tmp_path, "records.jsonl", '{"id": "a"')
    with pytest.raises(UserError, match="line 1: not a JSON object"):
        read_answers(store, digest)


def test_metrics_are_flat_numbers(store: Store, tmp_path: Path) -> None:
    digest = put(store, tmp_path, "metrics.json", '{"accuracy": 1, "loss": 0.5}')
    assert read_metrics(store, digest) == {"accuracy": 1.0, "loss": 0.5}


@pytest.mark.parametrize("text", ['{"accuracy": "high"}', '{"accuracy": true}', "[1]", "{"])
def test_other_metrics_are_refused(store: Store, tmp_path: Path, text: str) -> None:
    digest = put(store, tmp_path, "metrics.json", text)
    with pytest.raises(UserError, match=r"metrics\.json is not a flat object of numbers"):
        read_metrics(store, digest)


def test_champion_whose_predictions_are_gone_has_none(store: Store) -> None:
    lost = "sha256:" + "0" * 64
    assert read_champion_answers(store, None) == {}
    assert read_champion_answers(store, lost) == {}
    with pytest.raises(ArtifactNotFound):
        read_answers(store, lost)
