"""What must hold of the Containerfile and its scripts whoever builds with them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from crucible.engines.kfp.kubernetes_config import RUN_AS, SCRATCH
from crucible.images.building import BASE_IMAGE, INPUTS_LABEL, REVISION_LABEL
from crucible.images.checkout import find_checkout

CHECKOUT = find_checkout(Path(__file__))
SCRIPTS = sorted((CHECKOUT.root / "components/images/tools").glob("*.sh"))
WORDS_OF_CACHES = ("CACHE", "HOME", "CONFIGDIR", "SCRATCH")


def instructions() -> list[tuple[str, str]]:
    """Keyword and arguments of each instruction, continuations joined."""
    text = CHECKOUT.containerfile.read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines()]


def final_stage() -> list[tuple[str, str]]:
    found = instructions()
    last = max(index for index, (keyword, _) in enumerate(found) if keyword == "FROM")
    return found[last:]


def test_the_base_is_an_argument_with_a_version_and_nothing_else_is_pulled() -> None:
    (first, *_) = instructions()
    assert first == ("ARG", f"BASE_IMAGE={BASE_IMAGE}")
    assert re.fullmatch(r"[a-z./]+:\d+\.\d+[\w.-]+", BASE_IMAGE)
    stages = [arguments for keyword, arguments in instructions() if keyword == "FROM"]
    assert {stage.split()[0] for stage in stages} == {"${BASE_IMAGE}"}
    assert "latest" not in CHECKOUT.containerfile.read_text()


def test_it_runs_as_the_user_that_the_engine_gives_its_pods() -> None:
    users = [arguments for keyword, arguments in final_stage() if keyword == "USER"]
    assert users == [f"{RUN_AS}:{RUN_AS}"]
    after = [keyword for keyword, _ in final_stage()]
    assert "RUN" not in after[after.index("USER") :]


def test_everything_that_a_library_may_write_is_in_the_scratch_folder() -> None:
    (env,) = (arguments for keyword, arguments in final_stage() if keyword == "ENV")
    values = dict(pair.split("=", 1) for pair in env.split())
    writable = {n: v for n, v in values.items() if n.endswith(WORDS_OF_CACHES) or "CACHE" in n}
    assert len(writable) >= 8
    assert {n: v for n, v in writable.items() if not (v + "/").startswith(SCRATCH + "/")} == {}


def test_it_is_labelled_with_version_revision_and_inputs() -> None:
    (labels,) = (arguments for keyword, arguments in final_stage() if keyword == "LABEL")
    for name in ("org.opencontainers.image.version", REVISION_LABEL, INPUTS_LABEL):
        assert f'{name}="${{' in labels


def test_only_the_installed_package_comes_from_the_source() -> None:
    copies = [arguments for keyword, arguments in final_stage() if keyword == "COPY"]
    assert not [copy for copy in copies if "/src" in copy or "pyproject" in copy]
    assert "--from=package /package /opt/crucible" in copies
    assert "ADD" not in [keyword for keyword, _ in instructions()]


def test_what_seldom_changes_stands_below_what_often_does() -> None:
    marks = ["images/base ", "install_set.sh base", "images/${IMAGE_SET} ",
             "install_set.sh ${IMAGE_SET}", "--from=package", "${REVISION}"]  # fmt: skip
    text = "\n".join(arguments for _, arguments in final_stage())
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)


def test_only_serve_asks_for_debians_packages() -> None:
    found = (CHECKOUT.root / "components/images").glob("*/packages.txt")
    assert [path.parent.name for path in found] == ["serve"]


def test_every_step_of_the_build_has_the_cache_and_the_way_to_the_index() -> None:
    for arguments in (arguments for keyword, arguments in instructions() if keyword == "RUN"):
        for mount in ("type=cache,id=crucible-build", "id=ca", "id=index", "id=netrc"):
            assert mount in arguments


def test_what_is_copied_is_let_through_and_counts_as_input() -> None:
    copied = {
        source
        for keyword, arguments in instructions()
        if keyword == "COPY" and not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    }
    ignored = (CHECKOUT.root / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    counted = {path.relative_to(CHECKOUT.root) for path in CHECKOUT._inputs("train")}
    for source in copied:
        path = Path(source.replace("${IMAGE_SET}", "train"))
        assert any(path.is_relative_to(folder) for folder in allowed), path
        assert any(file.is_relative_to(path) for file in counted), path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_plain_shell_that_stops_at_an_error(script: Path) -> None:
    subprocess.run(["sh", "-n", script], check=True)
    text = script.read_text()
    assert "set -eu" in text or "tools/building.sh" in text
    assert "://" not in text
