"""What is in the images, and that the step contract holds inside them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from crucible.artifacts import open_store
from crucible.images.building import build_image
from crucible.images.checkout import find_checkout
from crucible.images.lock import normalise, read_lock
from crucible.testing.images import ImageArchive
from crucible.testing.images.builds import local_base, own_builder, shared_downloads

SETS = ("base", "train")
CHECKOUT = find_checkout(Path(__file__))
OWN = "crucible-platform"

INSTALLED = """
import json
from importlib.metadata import distributions
print(json.dumps({found.metadata["Name"]: found.version for found in distributions()}))
"""
ABSENT = """
import importlib, json, shutil
names = ("kfp", "kfp.kubernetes", "kubernetes", "pip", "uv", "hatchling", "cyclonedx", "pytest")
found = []
for name in names:
    try:
        importlib.import_module(name)
        found.append(name)
    except ModuleNotFoundError:
        pass
programs = ("gcc", "cc", "g++", "clang", "make", "git", "pip", "uv")
print(json.dumps(found + [name for name in programs if shutil.which(name)]))
"""
WRITABLE = """
import json, os
folders = ("/", "/opt/crucible", "/usr/share/sbom", "/var/cache", "/root", "/scratch", "/tmp")
def is_writable(folder):
    try:
        with open(os.path.join(folder, "probe"), "w"):
            return True
    except OSError:
        return False
print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "cwd": os.getcwd(),
    "writable": [folder for folder in folders if is_writable(folder)],
    "expanded": os.path.expanduser("~"),
}))
"""
UNCOMPILED = """
import importlib.util, json, os, sysconfig
import crucible
bare, stale = [], []
for root in (sysconfig.get_path("purelib"), os.path.dirname(os.__file__)):
    for folder, names, files in os.walk(root):
        if "dist-packages" in names:
            names.remove("dist-packages")
        for name in files:
            path = os.path.join(folder, name)
            if not name.endswith(".py"):
                continue
            cached = importlib.util.cache_from_source(path)
            if not os.path.exists(cached):
                bare.append(path)
            elif path.startswith(sysconfig.get_path("purelib")):
                with open(cached, "rb") as file:
                    if file.read(8)[4] != 1:  # hash-based, and not checked
                        stale.append(path)
print(json.dumps({"bare": bare, "stale": stale}))
"""


@pytest.mark.parametrize("set_name", SETS)
def test_steps_have_no_way_to_a_cluster_and_no_tools(containers: Any, set_name: str) -> None:
    assert containers.python(set_name, ABSENT) == []


@pytest.mark.parametrize("set_name", SETS)
def test_exactly_what_the_lock_says_is_installed(containers: Any, set_name: str) -> None:
    found = containers.python(set_name, INSTALLED)
    installed = {normalise(name): version for name, version in found.items()}
    assert installed.pop(OWN) == CHECKOUT.version
    pins = read_lock(CHECKOUT.lock(set_name))
    assert installed == {name: pin.version for name, pin in pins.items()}


@pytest.mark.parametrize("set_name", SETS)
def test_the_user_may_write_where_a_pod_lets_it_and_nowhere_else(
    containers: Any, set_name: str
) -> None:
    assert containers.python(set_name, WRITABLE) == {
        "user": [65532, 65532],
        "cwd": "/scratch",
        "writable": ["/scratch", "/tmp"],
        "expanded": "/scratch",
    }


def test_python_finds_everything_compiled(containers: Any) -> None:
    found = containers.python("base", UNCOMPILED)
    assert found["stale"] == []
    templates = [path for path in found["bare"] if "/crucible" in path.split("site-packages")[-1]]
    assert templates == []
    assert len(found["bare"]) < 10, found["bare"]


def test_a_step_runs_unprivileged_on_a_read_only_root(containers: Any, tmp_path: Path) -> None:
    outputs = containers.step("base", "crucible.testing.components:Noop", {"salt": "s"})
    reader = open_store((tmp_path / "store").as_uri()).reader(
        containers.ref(outputs["dataset"]), scratch_dir=tmp_path
    )
    record = json.loads(reader.local_path("records.jsonl").read_text())
    assert record == {"id": "0", "input": None, "salt": "s"}


def test_a_failing_step_says_why(containers: Any) -> None:
    done = containers.run("base", "python3", "-P", "-m", "crucible.step", "x")
    assert done.returncode == 2
    assert "--executor-input" in done.stderr


def test_the_command_line_is_in_the_image(containers: Any) -> None:
    done = containers.run("base", "platformctl", "--version")
    assert done.stdout == f"platformctl {CHECKOUT.version}\n"


def test_a_model_is_trained_in_the_train_image(containers: Any) -> None:
    scenes = containers.step(
        *("train", "synthesize-scenes"),
        {"num_scenes": 40, "num_prompt_scenes": 4, "num_evaluation_scenes": 4},
    )
    trained = containers.step(
        *("train", "train-vlm"),
        {"stage": "alignment", "steps": 3, "batch_size": 4},
        dataset=scenes["alignment"],
    )
    manifest = containers.ref(trained["model"]).manifest
    assert (manifest.type, manifest.variant) == ("Model", "vision-language")
    weights = [entry for entry in manifest.files if entry.path.endswith(".safetensors")]
    assert sum(entry.size_bytes for entry in weights) > 1_000_000


@pytest.mark.parametrize("set_name", SETS)
def test_the_bill_of_materials_is_valid_and_complete(
    containers: Any, image: Callable[[str], ImageArchive], set_name: str
) -> None:
    inside = containers.run(set_name, "cat", f"/usr/share/sbom/{set_name}.cdx.json").stdout
    assert inside == image(set_name).sbom_path.read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(inside) is None
    kinds: dict[str, dict[str, Any]] = {}
    for component in json.loads(inside)["components"]:
        kind = component["purl"].partition("/")[0]
        kinds.setdefault(kind, {})[component["name"]] = component
    pins = read_lock(CHECKOUT.lock(set_name))
    assert kinds["pkg:pypi"].keys() == pins.keys() | {OWN}
    for name, pin in pins.items():
        (archives,) = kinds["pkg:pypi"][name]["externalReferences"]
        assert {entry["content"] for entry in archives["hashes"]} == set(pin.hashes)
    status = containers.run(set_name, "cat", "/var/lib/dpkg/status").stdout
    assert len(kinds["pkg:deb"]) == status.count("Status: install ok installed")
    assert kinds["pkg:generic"].keys() == {"cpython"}


def test_the_pod_that_launches_jobs_can_talk_to_a_cluster(containers: Any) -> None:
    code = "import json, kfp, kfp.kubernetes, kubernetes; print(json.dumps(kubernetes.__version__))"
    pins = read_lock(CHECKOUT.lock("cluster"))
    assert containers.python("cluster", code) == pins["kubernetes"].version


@pytest.mark.slow
def test_equal_files_give_an_equal_image(
    image: Callable[[str], ImageArchive], tmp_path: Path
) -> None:
    first, builder = image("base"), own_builder()
    again = build_image(
        *("base", CHECKOUT, builder),
        tag="again",
        base_image=local_base(builder),
        sbom_dir=tmp_path,
        options=(*shared_downloads(), "--no-cache"),
    )
    ids = {
        builder.run("list images", "images", "--quiet", "--no-trunc", str(name)).strip()
        for name in (first.reference, again.reference)
    }
    builder.run("remove the second", "rmi", str(again.reference))
    assert len(ids) == 1


def test_the_second_call_takes_no_time(image: Callable[[str], ImageArchive]) -> None:
    first = image("base")
    started_at = time.monotonic()
    assert image("base") == first
    assert time.monotonic() - started_at < 5
