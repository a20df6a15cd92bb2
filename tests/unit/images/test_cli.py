"""The verbs, with each builder's program replaced by one that notes how it was called."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from crucible.images.checkout import find_checkout

REPOSITORY = find_checkout(Path(__file__)).root
DIGEST = f"sha256:{'5e' * 32}"
Call = Callable[..., Any]


def option(call: dict[str, Any], name: str) -> list[str]:
    return [value for key, value in pairwise(call["arguments"]) if key == name]


@pytest.mark.parametrize("builder", ["buildah", "podman", "docker"])
def test_build_tells_each_builder_the_same(platformctl: Call, tmp_path: Path, builder: str) -> None:
    base = f"r.example.com/python@{DIGEST}"
    done = platformctl(
        *("images", "build", "train", "--builder", builder, "--tag", "t1", "--base-image", base),
        "--json",
        UV_DEFAULT_INDEX="a-secret-address",
    )
    assert done.code == 0, done.err
    build = done.calls[0]
    assert build["program"] == builder
    assert build["arguments"][0] == "build"
    assert build["arguments"][-1] == str(REPOSITORY)
    assert option(build, "--file") == [str(REPOSITORY / "components/images/Containerfile")]
    assert option(build, "--tag") == ["localhost/crucible/train:t1"]
    values = dict(pair.split("=", 1) for pair in option(build, "--build-arg"))
    assert values["IMAGE_SET"] == "train"
    assert values["BASE_IMAGE"] == base
    assert values["INPUTS"].startswith("sha256:")
    assert build["secrets"] == {"index": "a-secret-address"}
    assert "a-secret-address" not in json.dumps(build["arguments"])
    times = option(build, "--timestamp") or [values["SOURCE_DATE_EPOCH"]]
    assert times == ["315532800"]
    sbom = tmp_path / "home/images/train.cdx.json"
    assert json.loads(sbom.read_text()) == {"bomFormat": "CycloneDX"}
    assert done.json == [
        {
            "set": "train",
            "image": "localhost/crucible/train:t1",
            "sbom": str(sbom),
            "pushed": None,
        }
    ]


def test_all_sets_are_built_with_the_first_builder_found(platformctl: Call, programs: Path) -> None:
    (programs / "buildah").unlink()
    done = platformctl("images", "build", "--tag", "t1")
    assert done.code == 0, done.err
    built = [option(call, "--tag") for call in done.calls if call["arguments"][0] == "build"]
    assert built == [
        [f"localhost/crucible/{name}:t1"] for name in ("base", "cluster", "train", "eval", "serve")
    ]
    assert {call["program"] for call in done.calls} == {"podman"}
    assert done.out.startswith("localhost/crucible/base:t1\n")
    assert "serve: built in" in done.err


@pytest.mark.parametrize("builder", ["buildah", "podman", "docker"])
def test_push_then_digest(platformctl: Call, builder: str) -> None:
    pushed = platformctl(
        *("images", "push", "r.example.com/team", "base", "train", "--tag", "t1"),
        *("--builder", builder),
    )
    assert pushed.code == 0, pushed.err
    assert pushed.out.splitlines() == [
        f"r.example.com/team/base:t1@{DIGEST}",
        f"r.example.com/team/train:t1@{DIGEST}",
    ]
    printed = platformctl("images", "digest")
    assert printed.code == 0
    expected = {name: f"r.example.com/team/{name}@{DIGEST}" for name in ("base", "train")}
    assert yaml.safe_load(printed.out) == {"images": expected}
    assert "train was built from other files" in printed.err
    assert platformctl("images", "digest", "train", "--json").json == {"train": expected["train"]}


def test_what_digest_prints_is_what_a_context_takes(platformctl: Call, tmp_path: Path) -> None:
    from crucible.specs.context import load_context

    platformctl("images", "push", "r.example.com/team", "--tag", "t1")
    context = tmp_path / "context.yaml"
    context.write_text(
        "apiVersion: crucible/v1\nkind: Context\nmetadata: {name: c}\nstore: {uri: s3://b}\n"
        + platformctl("images", "digest").out
    )
    assert len(load_context(context).images) == 5


def test_build_pushes_on_demand(platformctl: Call) -> None:
    done = platformctl(
        *("images", "build", "eval", "--tag", "t1", "--push", "r.example.com/a", "--json")
    )
    assert done.json[0]["pushed"] == f"r.example.com/a/eval:t1@{DIGEST}"
    assert [call["arguments"][0] for call in done.calls][-1] == "inspect"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--tag", "a b"], "which is none"),
        (["build", "--base-image", "python"], "may be another image tomorrow"),
        (["build", "nothing"], "nothing"),
        (["digest"], "platformctl images push"),
        (["digest", "train"], "train: not pushed"),
    ],
)
def test_mistakes_are_exit_code_2(platformctl: Call, arguments: list[str], message: str) -> None:
    done = platformctl("images", *arguments)
    assert done.code == 2
    assert message in done.err
    assert [call for call in done.calls if call["arguments"][0] == "build"] == []


def test_no_builder_is_one_clear_error(platformctl: Call, programs: Path) -> None:
    for name in ("buildah", "podman", "docker"):
        (programs / name).unlink()
    done = platformctl("images", "build")
    assert done.code == 2
    assert done.err.count("error:") == 1
    assert "apt-get install buildah" in done.err
    named = platformctl("images", "build", "--builder", "podman")
    assert "podman is not installed" in named.err


def test_outside_a_checkout_is_one_clear_error(platformctl: Call, tmp_path: Path) -> None:
    done = platformctl("images", "build", cwd=tmp_path)
    assert done.code == 2
    assert "is in no checkout of Crucible" in done.err
    assert done.calls == []


@pytest.mark.parametrize(
    ("said", "code"),
    [("Error: no such instruction", 1), ("dial tcp: connection refused", 75)],
)
def test_the_builders_last_words_are_shown(platformctl: Call, said: str, code: int) -> None:
    fails = json.dumps({"build": said})
    for form in ([], ["--json"]):
        done = platformctl("images", "build", "base", *form, FAKE_BUILDER_FAILS=fails)
        assert done.code == code
        assert said in (done.json["message"] if form else done.err)


def test_an_image_that_is_not_here_is_not_pushed(platformctl: Call) -> None:
    fails = json.dumps({"inspect": "no such image"})
    done = platformctl(
        *("images", "push", "r.example.com/a", "base", "--tag", "t1"), FAKE_BUILDER_FAILS=fails
    )
    assert done.code == 2
    assert "platformctl images build base --tag t1" in done.err


def test_a_damaged_record_is_named(platformctl: Call, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/images.json").write_text("{")
    done = platformctl("images", "digest")
    assert done.code == 2
    assert "images.json is damaged" in done.err
