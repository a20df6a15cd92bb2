from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from crucible.errors import UserError
from crucible.images.building import default_tag
from crucible.images.checkout import CONTAINERFILE, Checkout, find_checkout


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """The smallest folder that images could be built from, in no repository."""
    files = {
        "pyproject.toml": '[project]\nname = "crucible-platform"\nversion = "1.2.3"\n',
        "README.md": "r",
        ".dockerignore": "*",
        CONTAINERFILE: "FROM x",
        "platform/src/crucible/a.py": "a",
        "components/src/b.py": "b",
        "components/images/tools/t.sh": "t",
        "components/images/base/requirements.txt": "base",
        "components/images/train/requirements.txt": "train",
    }
    for name, text in files.items():
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Checkout(tmp_path / "checkout")


def test_it_is_found_from_any_folder_in_it(checkout: Checkout) -> None:
    assert find_checkout(checkout.root / "platform/src/crucible") == checkout


def test_elsewhere_there_is_none(checkout: Checkout, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in no checkout of Crucible"):
        find_checkout(tmp_path)
    (checkout.root / "pyproject.toml").write_text('[project]\nname = "another"\n')
    with pytest.raises(UserError, match="in no checkout of Crucible"):
        find_checkout(checkout.root)


@pytest.mark.parametrize(
    ("changed", "sets"),
    [
        ("components/images/train/requirements.txt", {"train"}),
        ("components/images/base/requirements.txt", {"base", "train"}),
        ("components/images/tools/t.sh", {"base", "train"}),
        ("platform/src/crucible/a.py", {"base", "train"}),
        ("platform/src/crucible/__pycache__/a.pyc", set()),
        ("tests/test_a.py", set()),
    ],
)
def test_inputs_are_all_that_an_image_depends_on(
    checkout: Checkout, changed: str, sets: set[str]
) -> None:
    before = {name: checkout.inputs_digest(name) for name in ("base", "train")}
    path = checkout.root / changed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("changed")
    assert {name for name in before if checkout.inputs_digest(name) != before[name]} == sets


def test_the_tag_names_version_and_commit(checkout: Checkout) -> None:
    assert default_tag(checkout) == "1.2.3-unknown"
    git(checkout.root, "init", "-q")
    git(checkout.root, "add", "--all")
    git(checkout.root, "commit", "-q", "-m", "first")
    assert len(checkout.revision) == 40
    assert default_tag(checkout) == f"1.2.3-{checkout.revision[:12]}"
    (checkout.root / "tests").mkdir()
    (checkout.root / "tests/a.py").write_text("no input of an image")
    assert not checkout.revision.endswith("-dirty")
    first = checkout.revision
    git(checkout.root, "add", "--all")
    git(checkout.root, "commit", "-q", "-m", "no other image")
    assert checkout.revision == first
    (checkout.root / "README.md").write_text("changed")
    assert default_tag(checkout).endswith("-dirty")
