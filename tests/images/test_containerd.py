"""An image in a containerd that has just been started."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crucible.testing.images import ImageArchive, seed_containerd
from crucible.testing.images.containerd import running_containerd


def test_a_seeded_containerd_has_the_image_unpacked(
    image: Callable[[str], ImageArchive], tmp_path: Path
) -> None:
    if shutil.which("containerd") is None:
        pytest.skip("no containerd here: apt-get install containerd")
    base = image("base")
    for name in ("one", "two"):  # the second is made of links to what the first imported
        root = tmp_path / name
        seed_containerd(root, [base])
        with running_containerd(root) as ctr:
            images = ctr("images", "ls")
            checked = ctr("images", "check", "--quiet", f"name=={base.reference}")
        rows = {line.split()[0]: line.split() for line in images.splitlines()[1:]}
        assert rows.keys() >= {base.reference, base.by_digest}
        assert rows[base.by_digest][2] == base.digest
        assert checked.split() == [base.reference]
        shutil.rmtree(root)
