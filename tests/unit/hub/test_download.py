"""The hub's cache, and what is said when neither it nor the hub has a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import huggingface_hub.constants
import pytest
from huggingface_hub import errors

from crucible.errors import UserError
from crucible_components.merging.recipe.schema import ModelReference
from crucible_components.merging.sources.opening import open_model
from crucible_components.merging.sources.testing import small_config, small_tensors, write_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def snapshot(cache: Path, **content: Any) -> Path:
    """A folder of the cache, as ``main`` of org/model."""
    model = cache / "models--org--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    return write_folder(model / "snapshots" / COMMIT, **content)


def opened(name: str = "org/model") -> Any:
    return open_model(ModelReference.model_validate(name), {})


def test_what_is_cached_is_not_downloaded(cache: Path) -> None:
    snapshot(cache, tensors=small_tensors(), config=small_config())
    with opened() as source:
        assert (source.kind, source.digest) == ("hub", f"commit:{COMMIT}")
        assert source.hub_names == ("org/model",)
        assert source.reader.infos.keys() == small_tensors().keys()


def test_what_is_cached_in_part_is_downloaded(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer that something else has loaded before is no model."""
    folder = snapshot(cache, tensors={}, config=small_config(), tokenizer__json="{}")
    asked: list[dict[str, Any]] = []

    def download(name: str, **given: Any) -> str:
        asked.append(given)
        if not given.get("local_files_only"):
            write_folder(folder, small_tensors(), small_config())
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with opened("org/model@v2") as source:
        assert source.reader.infos.keys() == small_tensors().keys()
    assert [each.get("local_files_only", False) for each in asked] == [True, False]
    assert {each["revision"] for each in asked} == {"v2"}


@pytest.mark.parametrize("file", ["pytorch_model.bin", "original/x.safetensors", "onnx/m.onnx"])
def test_other_formats_are_not_asked_for(file: str) -> None:
    from huggingface_hub.utils import filter_repo_objects

    from crucible_components.hub.download import UNWANTED, WANTED

    kept = ["model-1.safetensors", "config.json", "tokenizer.model", "modeling.py", "merges.txt"]
    found = filter_repo_objects(
        [*kept, file, "consolidated.00.safetensors"],
        allow_patterns=list(WANTED),
        ignore_patterns=list(UNWANTED),
    )
    assert list(found) == kept


def response(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize(
    ("cause", "message", "fix"),
    [
        (errors.GatedRepoError("no", response=response(403)), "is gated.", "set HF_TOKEN"),
        (
            errors.RepositoryNotFoundError("no", response=response(404)),
            "nor a model of the hub",
            "spelling",
        ),
        (
            errors.RevisionNotFoundError("no", response=response(404)),
            "has no revision 'v2'.",
            "tree/main",
        ),
        (
            httpx2.ConnectError("no route"),
            "(ConnectError: no route)",
            "hf download org/m",
        ),
        (errors.LocalEntryNotFoundError("x"), "not in the local cache", "Check the network"),
    ],
)
def test_one_clear_message(
    cache: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception, message: str, fix: str
) -> None:
    def download(name: str, **given: Any) -> str:
        if given.get("local_files_only"):
            raise errors.LocalEntryNotFoundError("not cached")
        raise cause

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError) as refused:
        opened("org/model@v2")
    [problem] = refused.value.problems
    assert problem.path == "org/model@v2"
    assert message in problem.message
    assert fix in problem.fix


def test_offline_and_not_cached(cache: Path) -> None:
    with pytest.raises(UserError) as refused:
        opened()
    [problem] = refused.value.problems
    assert "is not in the local cache and could not be downloaded" in problem.message
