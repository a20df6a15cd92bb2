import json
import math
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible.sdk.events import EventWriter, read_events


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "step" / "events.jsonl"


def fields(path: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(path)[0] if event["type"] == kind]


def test_every_kind_has_the_fields_of_the_architecture(path: Path) -> None:
    writer = EventWriter(path, clock=lambda: 12.3456)
    writer.update(1, 10, unit="batches", message="warm-up")
    writer.log_metrics({"train/loss": 0.5, "count": 3}, step=7)
    writer.log_params({"lr": 1e-3, "stage": "fusion", "frozen": True})
    writer.set_tags({"digest": "sha256:00"})
    writer.close()
    events, offset = read_events(path)
    assert events == [
        {
            "time": 12.346,
            "type": "progress",
            "done": 1,
            "total": 10,
            "unit": "batches",
            "message": "warm-up",
        },
        {"time": 12.346, "type": "metrics", "step": 7, "values": {"train/loss": 0.5, "count": 3}},
        {
            "time": 12.346,
            "type": "params",
            "values": {"lr": 1e-3, "stage": "fusion", "frozen": True},
        },
        {"time": 12.346, "type": "tags", "values": {"digest": "sha256:00"}},
    ]
    assert offset == path.stat().st_size


def test_progress_is_thinned_but_the_end_is_written(path: Path) -> None:
    writer = EventWriter(path)
    for done in range(1001):
        writer.update(done, 1000)
    writer.close()
    written = [event["done"] for event in fields(path, "progress")]
    assert written[0] == 0
    assert written[-1] == 1000
    assert written.count(1000) == 1
    assert len(written) < 100


def test_last_progress_without_a_total_is_written_on_close(path: Path) -> None:
    writer = EventWriter(path)
    for done in range(5):
        writer.update(done)
    writer.close()
    assert fields(path, "progress")[-1]["done"] == 4


def test_numpy_scalars_are_numbers(path: Path) -> None:
    import numpy

    writer = EventWriter(path)
    writer.log_metrics({"loss": numpy.float32(0.5), "n": numpy.int64(3)})
    writer.close()
    assert fields(path, "metrics")[0]["values"] == {"loss": 0.5, "n": 3}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "0.5"])
def test_what_is_no_finite_number_is_refused_by_name(path: Path, value: Any) -> None:
    with pytest.raises(ValueError, match="metric 'train/loss' is"):
        EventWriter(path).log_metrics({"ok": 1.0, "train/loss": value})
    assert not path.exists()


def test_name_that_mlflow_refuses_is_refused(path: Path) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_metric_name

    for name in ("loss(mean)", "a%", "a@b", ""):
        with pytest.raises(ValueError, match="is no name for tracking"):
            EventWriter(path).log_metrics({name: 1.0})
    with pytest.raises(MlflowException):
        _validate_metric_name("loss(mean)")
    _validate_metric_name("time/step seconds.a-b_c:d")
    EventWriter(path).log_metrics({"time/step seconds.a-b_c:d": 1.0})


@settings(deadline=None)
@given(
    st.lists(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.text(), max_size=3)),
    st.integers(min_value=0),
)
def test_any_prefix_reads_as_whole_events_then_continues(
    tmp_path_factory: pytest.TempPathFactory, tags: list[dict[str, str]], cut: int
) -> None:
    path = tmp_path_factory.mktemp("events") / "events.jsonl"
    path.touch()
    writer = EventWriter(path)
    for values in tags:
        writer.set_tags(values)
    writer.close()
    data = path.read_bytes()
    path.write_bytes(data[: cut % (len(data) + 1)])
    first, offset = read_events(path)
    path.write_bytes(data)
    rest, end = read_events(path, offset)
    assert [event["values"] for event in first + rest] == tags
    assert end == len(data)


def test_torn_line_inside_is_skipped_with_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = EventWriter(path)
    writer.set_tags({"a": "1"})
    with path.open("ab") as stream:
        stream.write(b'{"time": 1, "ty\n')
    writer.set_tags({"b": "2"})
    writer.close()
    assert [event["values"] for event in read_events(path)[0]] == [{"a": "1"}, {"b": "2"}]
    assert "no event" in caplog.text


def test_missing_file_has_no_events(path: Path) -> None:
    assert read_events(path, 5) == ([], 5)


def test_threads_and_readers_see_whole_lines(path: Path) -> None:
    writer = EventWriter(path)

    def log(thread: int) -> None:
        for step in range(200):
            writer.log_metrics({f"m{thread}": float(step)}, step=step)

    threads = [threading.Thread(target=log, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    seen, offset = [], 0
    while any(thread.is_alive() for thread in threads):
        events, offset = read_events(path, offset)
        seen += events
    for thread in threads:
        thread.join()
    events, _ = read_events(path, offset)
    assert len(seen + events) == 800
    assert all(json.loads(line) for line in path.read_text().splitlines())
    writer.close()
