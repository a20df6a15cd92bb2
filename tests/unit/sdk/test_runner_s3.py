from collections.abc import Iterator
from typing import Any

import pytest

from crucible.artifacts import open_store
from crucible.testing.object_store import ObjectStore, object_store

COMPONENTS = "crucible.testing.components"


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


def test_steps_pass_artifacts_through_a_bucket(
    bench: Any, server: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_uri = f"s3://{server.make_bucket()}/store"
    environ = server.environ | {"CRUCIBLE_STORE": store_uri}
    made = bench.request(f"{COMPONENTS}:MakeModel", {"size_bytes": 1000})
    assert bench.run_request(f"{COMPONENTS}:MakeModel", made, **environ).exit_code == 0

    inputs = {"model": [made.outputs["model"].path]}
    copied = bench.request(f"{COMPONENTS}:CopyModel", {}, inputs)
    done = bench.run_request(f"{COMPONENTS}:CopyModel", copied, **environ)
    assert done.exit_code == 0, done.log
    assert done.ref("model").manifest.variant == "causal-lm"
    assert not (bench.folder / "store").exists()

    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    reader = open_store(store_uri).reader(done.ref("model"))
    with reader.open("weights.bin") as stream:
        assert stream.read() == bytes(1000)

    again = bench.run_request(f"{COMPONENTS}:CopyModel", copied, **environ)
    assert "run before by run r1" in again.log
    assert not list((done.attempt_dir / "scratch").iterdir())


def test_input_is_read_from_the_store_that_its_reference_names(
    bench: Any, server: ObjectStore
) -> None:
    made = bench.run("MakeModel")
    other = server.environ | {"CRUCIBLE_STORE": f"s3://{server.make_bucket()}/store"}
    inputs = {"model": [made.request.outputs["model"].path]}
    copied = bench.request(f"{COMPONENTS}:CopyModel", {}, inputs)
    done = bench.run_request(f"{COMPONENTS}:CopyModel", copied, **other)
    assert done.exit_code == 0, done.log
    assert done.ref("model").store == other["CRUCIBLE_STORE"]
    assert done.ref("model").manifest.files == made.ref("model").manifest.files


@pytest.mark.slow
def test_store_that_does_not_answer_is_a_temporary_failure(bench: Any, server: ObjectStore) -> None:
    nowhere = server.environ | {
        "CRUCIBLE_S3_ENDPOINT": "http://127.0.0.1:9",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "CRUCIBLE_STORE": "s3://bucket/store",
    }
    request = bench.request(f"{COMPONENTS}:Noop")
    done = bench.run_request(f"{COMPONENTS}:Noop", request, **nowhere)
    assert done.exit_code == 75, done.log
    assert done.failure is not None
    assert done.failure["cause"] == "temporary"
