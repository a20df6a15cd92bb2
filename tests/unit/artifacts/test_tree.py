from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible.artifacts import open_store, tree_digest
from crucible.artifacts.tree import listing_digest, tree_files
from crucible.errors import UserError


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_order_times_and_modes_do_not_matter(tmp_path: Path) -> None:
    files = {"b/x": b"1", "a": b"2", "b/a": b"3"}
    first = fill(tmp_path / "first", files)
    second = fill(tmp_path / "second", dict(reversed(files.items())))
    os.utime(second / "a", (1, 1))
    (second / "a").chmod(0o600)
    assert tree_digest(first) == tree_digest(second)


@settings(max_examples=30)
@given(
    before=st.dictionaries(st.sampled_from("abcd"), st.binary(max_size=3), min_size=1),
    after=st.dictionaries(st.sampled_from("abcd"), st.binary(max_size=3), min_size=1),
)
def test_equal_exactly_if_names_and_bytes_are(
    tmp_path_factory: pytest.TempPathFactory, before: dict[str, bytes], after: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("trees")
    first, second = fill(folder / "1", before), fill(folder / "2", after)
    assert (tree_digest(first) == tree_digest(second)) == (before == after)


def test_equals_the_listing_of_the_imported_artifact(tmp_path: Path) -> None:
    folder = fill(tmp_path / "data", {"records.jsonl": b"{}\n", "images/1.png": b"png"})
    store = open_store((tmp_path / "store").as_uri())
    assert listing_digest(store.put_tree(folder, type="Dataset").manifest.files) == tree_digest(
        folder
    )
    file = folder / "records.jsonl"
    assert listing_digest(store.put_tree(file, type="Dataset").manifest.files) == tree_digest(file)


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    plain = fill(tmp_path / "plain", {"model.bin": b"weights"})
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "model.bin").symlink_to(plain / "model.bin")
    assert tree_digest(linked) == tree_digest(plain)


def test_everything_that_cannot_be_stored_is_named_at_once(tmp_path: Path) -> None:
    fill(tmp_path / "tree", {"good": b"", "back\\slash": b""})
    (tmp_path / "tree" / "dangling").symlink_to("nowhere")
    (tmp_path / "tree" / "folder").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "tree" / "pipe")
    with pytest.raises(UserError) as caught:
        tree_files(tmp_path / "tree")
    assert sorted(problem.path for problem in caught.value.problems) == [
        "back\\slash",
        "dangling",
        "folder",
        "pipe",
    ]


def unlistable(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    scandir = os.scandir

    def refuse(path: Path):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_a_folder_that_cannot_be_listed_is_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, {"a": b"1", "hidden/b": b"2"})
    unlistable(monkeypatch, tmp_path / "hidden")
    with pytest.raises(UserError, match="hidden: cannot be listed"):
        tree_digest(tmp_path)


def test_nothing_to_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file"):
        tree_digest(tmp_path / "empty")
    with pytest.raises(UserError, match="no such file or folder"):
        tree_digest(tmp_path / "missing")
