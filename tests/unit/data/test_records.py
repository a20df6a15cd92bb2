"""Datasets survive the round trip, repeat to the byte, and bad lines are named."""

from __future__ import annotations

import json
import multiprocessing
import zipfile
from pathlib import Path

import numpy as np
import pytest

from crucible.errors import ArtifactCorrupt, ArtifactNotFound, UserError
from crucible.sdk.types import ArtifactType, Dataset
from crucible_components.data.folder import FolderBytes
from crucible_components.data.records import (
    DatasetWriter,
    ImageArchive,
    iter_records,
    read_records,
)


def dataset(folder: Path, variant: str = "questions") -> Dataset:
    return Dataset(name="data", source=FolderBytes(folder), type=ArtifactType("Dataset", variant))


def question(number: int, **fields: object) -> dict[str, object]:
    record = {"id": f"q{number}", "category": "count", "question": "how many?", "answer": "two"}
    return {**record, **fields}


def picture(seed: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write(folder: Path, seeds: list[int]) -> Dataset:
    artifact = dataset(folder)
    with DatasetWriter(artifact) as writer:
        for number, seed in enumerate(seeds):
            writer.add_record(question(number, image=writer.add_image(picture(seed))))
    return artifact


def test_round_trip_keeps_records_order_and_pixels(tmp_path: Path) -> None:
    artifact = write(tmp_path, [3, 1, 2])
    records = read_records(artifact)
    assert [record["id"] for record in records] == ["q0", "q1", "q2"]
    with ImageArchive(artifact) as archive:
        for record, seed in zip(records, [3, 1, 2], strict=True):
            np.testing.assert_array_equal(archive.read(record["image"]), picture(seed))
            assert archive.read_picture(record["image"]).mode == "RGB"
    assert artifact.metadata == {"num_records": 3, "num_images": 3}


def test_equal_pictures_are_kept_once(tmp_path: Path) -> None:
    artifact = write(tmp_path, [5, 5, 6, 5])
    with ImageArchive(artifact) as archive:
        assert len(archive.names()) == 2
    assert artifact.metadata["num_images"] == 2


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, [1, 2, 1])
    for file in ("records.jsonl", "images.zip"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_members_are_stored_uncompressed(tmp_path: Path) -> None:
    write(tmp_path, [1])
    with zipfile.ZipFile(tmp_path / "images.zip") as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_text_only_dataset_has_no_archive(tmp_path: Path) -> None:
    artifact = dataset(tmp_path)
    with DatasetWriter(artifact) as writer:
        writer.add_record(question(0))
    assert artifact.paths() == ("records.jsonl",)
    assert list(iter_records(artifact)) == [question(0)]


def test_every_broken_line_is_named_with_its_rule(tmp_path: Path) -> None:
    good = json.dumps(question(0))
    lines = [good, '{"id": "q1"', "[1]", json.dumps({"id": "", "category": "c", "question": "x"})]
    lines += [json.dumps(question(4, image="gone.png")), json.dumps(question(5, choices=["one"]))]
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError) as caught:
        read_records(dataset(tmp_path))
    found = [(problem.line, problem.path) for problem in caught.value.problems]
    assert found == [(2, ""), (3, ""), (4, "id"), (4, "answer"), (5, "image"), (6, "choices")]
    assert "records.jsonl:4: answer: is missing" in str(caught.value)


def test_streaming_stops_at_the_first_broken_line(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text(json.dumps(question(0)) + "\n{}\n")
    stream = iter_records(dataset(tmp_path))
    assert next(stream) == question(0)
    with pytest.raises(UserError, match=r"records\.jsonl:2"):
        next(stream)


def test_report_of_many_broken_lines_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("{}\n" * 1000)
    with pytest.raises(UserError) as caught:
        read_records(dataset(tmp_path))
    assert len(caught.value.problems) == 20


@pytest.mark.parametrize(
    ("turns", "path"),
    [
        ([], "conversations"),
        ([{"from": "human", "value": "a"}], "conversations"),
        ([{"from": "gpt", "value": "a"}, {"from": "gpt", "value": "b"}], "conversations[0].from"),
        (
            [{"from": "human", "value": "a"}, {"from": "gpt", "value": " "}],
            "conversations[1].value",
        ),
        ([{"from": "human", "value": "a"}, "b"], "conversations[1]"),
    ],
)
def test_conversations_alternate_and_are_not_empty(
    tmp_path: Path, turns: list[object], path: str
) -> None:
    (tmp_path / "records.jsonl").write_text(json.dumps({"id": "c", "conversations": turns}) + "\n")
    with pytest.raises(UserError) as caught:
        read_records(dataset(tmp_path, "conversations"))
    assert [problem.path for problem in caught.value.problems] == [path]


def test_predictions_need_a_verdict(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text(json.dumps(question(0, prediction="")) + "\n")
    with pytest.raises(UserError) as caught:
        read_records(dataset(tmp_path, "predictions"))
    assert [problem.path for problem in caught.value.problems] == ["correct"]


def test_writer_refuses_a_record_that_no_reader_would_take(tmp_path: Path) -> None:
    with DatasetWriter(dataset(tmp_path)) as writer:
        with pytest.raises(UserError, match=r"records\.jsonl:1: answer"):
            writer.add_record({"id": "q", "category": "c", "question": "x"})
        with pytest.raises(UserError, match="was not added"):
            writer.add_record(question(0, image="other.png"))


def test_missing_and_broken_pictures_are_told_apart(tmp_path: Path) -> None:
    artifact = dataset(tmp_path)
    with DatasetWriter(artifact) as writer:
        broken = writer.add_image(b"no picture")
        writer.add_record(question(0, image=broken))
    with ImageArchive(artifact) as archive:
        with pytest.raises(ArtifactNotFound, match=r"gone\.png"):
            archive.read("gone.png")
        with pytest.raises(ArtifactCorrupt, match=broken):
            archive.read(broken)


def _read_all(archive: ImageArchive, queue: multiprocessing.Queue) -> None:
    queue.put([int(archive.read(name).sum()) for name in archive.names()])


def test_forked_readers_do_not_disturb_each_other(tmp_path: Path) -> None:
    artifact = write(tmp_path, list(range(40)))
    expected = [int(picture(seed).sum()) for seed in range(40)]
    fork = multiprocessing.get_context("fork")
    with ImageArchive(artifact) as archive:
        archive.read(archive.names()[0])  # open before the fork: the offset would be shared
        queue = fork.Queue()
        workers = [fork.Process(target=_read_all, args=(archive, queue)) for _ in range(4)]
        for worker in workers:
            worker.start()
        results = [queue.get(timeout=30) for _ in workers]
        for worker in workers:
            worker.join()
    assert results == [expected] * 4
