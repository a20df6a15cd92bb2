"""Image archives hold what containerd reads from them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from crucible.testing.cluster.failures import ClusterFailed
from crucible.testing.cluster.images import image_names, write_image


@pytest.fixture(autouse=True)
def busybox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the program, which not every machine has."""
    program = tmp_path / "busybox"
    program.write_text("#!/bin/sh\nprintf 'busybox\\nsh\\ncat\\n'\n")
    program.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(program))


def read(archive: Path, member: str) -> bytes:
    with tarfile.open(archive) as tar:
        file = tar.extractfile(member)
        assert file is not None
        return file.read()


def test_an_image_names_its_layer_by_digest(tmp_path: Path) -> None:
    archive = write_image(tmp_path / "image.tar", "tool:1", command=["/bin/cat"], user="65532")
    layer = read(archive, "layer.tar")
    config = json.loads(read(archive, "config.json"))
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert config["config"]["Cmd"] == ["/bin/cat"]
    assert config["config"]["User"] == "65532"


def test_a_layer_has_a_link_for_each_command_and_the_files(tmp_path: Path) -> None:
    archive = write_image(tmp_path / "image.tar", "tool:1", files={"/app/run": b"#!/bin/sh\n"})
    with tarfile.open(fileobj=io.BytesIO(read(archive, "layer.tar"))) as layer:
        links = {entry.name: entry.linkname for entry in layer if entry.issym()}
        assert links == {"bin/sh": "busybox", "bin/cat": "busybox"}
        assert layer.getmember("app/run").mode == 0o755
        assert layer.getmember("tmp").mode == 0o1777


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("tool:1", "docker.io/library/tool:1"),
        ("team/tool:1", "docker.io/team/tool:1"),
        ("localhost/tool:1", "localhost/tool:1"),
        ("registry.example:5000/tool:1", "registry.example:5000/tool:1"),
    ],
)
def test_names_are_completed_as_containerd_does(tmp_path: Path, given: str, full: str) -> None:
    assert image_names(write_image(tmp_path / "image.tar", given)) == [full]


def test_a_name_without_a_tag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterFailed, match="needs a full name"):
        image_names(write_image(tmp_path / "image.tar", "tool"))


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "other.tar", "w"):
        pass
    with pytest.raises(ClusterFailed, match="neither a docker nor an OCI archive"):
        image_names(tmp_path / "other.tar")
