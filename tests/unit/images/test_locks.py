"""Every image's lock is part of the root's, and holds what the image needs and not more."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement

from crucible.errors import UserError
from crucible.images.checkout import find_checkout
from crucible.images.lock import Pin, find_conflicts, normalise, read_lock
from crucible.specs.context import ImageSet

CHECKOUT = find_checkout(Path(__file__))
SETS = get_args(ImageSet)
STALE = "stale: run `make lock`"


def project() -> dict[str, object]:
    text = (CHECKOUT.root / "pyproject.toml").read_text()
    return dict(tomllib.loads(text)["project"])


def declared(set_name: str) -> list[Requirement]:
    """What pyproject.toml asks for in an image: the base install and the set's own extra."""
    extras = project()["optional-dependencies"]
    dependencies = project()["dependencies"]
    assert isinstance(extras, dict)
    assert isinstance(dependencies, list)
    return [Requirement(text) for text in [*dependencies, *extras.get(set_name, [])]]


@pytest.fixture(scope="module")
def root() -> dict[str, Pin]:
    return read_lock(CHECKOUT.root / "requirements.txt")


@pytest.mark.parametrize("set_name", SETS)
def test_every_pin_is_the_roots(set_name: str, root: dict[str, Pin]) -> None:
    assert find_conflicts(read_lock(CHECKOUT.lock(set_name)), root) == [], STALE


@pytest.mark.parametrize("set_name", SETS)
def test_what_is_declared_is_locked_in_a_version_that_it_allows(set_name: str) -> None:
    pins = read_lock(CHECKOUT.lock(set_name))
    wrong = [
        str(requirement)
        for requirement in declared(set_name)
        if normalise(requirement.name) not in pins
        or pins[normalise(requirement.name)].version not in requirement.specifier
    ]
    assert wrong == [], STALE


@pytest.mark.parametrize("set_name", SETS)
def test_every_image_holds_the_base(set_name: str) -> None:
    base, lock = (read_lock(CHECKOUT.lock(name)) for name in ("base", set_name))
    assert base.items() <= lock.items(), STALE


def test_only_the_cluster_image_can_talk_to_a_cluster() -> None:
    found = {name: {"kfp", "kubernetes"} & read_lock(CHECKOUT.lock(name)).keys() for name in SETS}
    assert found == {name: set() for name in SETS} | {"cluster": {"kfp", "kubernetes"}}


def test_the_tools_are_locked_and_agree_with_the_root(root: dict[str, Pin]) -> None:
    tools = read_lock(CHECKOUT.lock("tools"))
    asked = CHECKOUT.lock("tools").with_suffix(".in").read_text().splitlines()
    names = {line.split()[0] for line in asked if line and not line.startswith("#")}
    assert names <= tools.keys(), STALE
    assert find_conflicts({n: p for n, p in tools.items() if n in root}, root) == [], STALE


@pytest.mark.parametrize("set_name", [*SETS, "tools"])
def test_locks_name_no_address(set_name: str) -> None:
    text = CHECKOUT.lock(set_name).read_text()
    assert "://" not in text
    assert "--index-url" not in text


def test_conflicts_name_the_distribution_and_both_versions() -> None:
    root = {"a": Pin("a", "1", ("x",)), "b": Pin("b", "1", ("x",)), "c": Pin("c", "1", ("x",))}
    lock = {"a": Pin("a", "2", ("x",)), "b": Pin("b", "1", ("y",)), "d": Pin("d", "1", ("x",))}
    assert find_conflicts(lock, root) == [
        "a is 2 here and 1 in the root's",
        "b 1 has archives that the root's lock does not know",
        "d is not in the root's lock",
    ]


def test_a_lock_is_read_over_lines_and_without_comments(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    hashes = ["a" * 64, "b" * 64]
    path.write_text(
        f"# by uv\nRuamel.Yaml[x]==1.0 ; os_name == 'posix' \\\n    --hash=sha256:{hashes[0]} \\\n"
        f"    --hash=sha256:{hashes[1]}\n    # via something\n"
    )
    assert read_lock(path) == {"ruamel-yaml": Pin("ruamel-yaml", "1.0", tuple(hashes))}


@pytest.mark.parametrize("line", ["a==1", f"a>=1 --hash=sha256:{'a' * 64}", "-e ."])
def test_a_line_that_pins_nothing_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(line)
    with pytest.raises(UserError, match="make lock"):
        read_lock(path)


def test_an_absent_lock_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.txt: No such file"):
        read_lock(tmp_path / "absent.txt")
