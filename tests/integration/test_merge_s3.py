"""Models of a merge read by ranges from an object store, and what a fault of it does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from crucible.artifacts import Store
from crucible.artifacts.s3_backend import S3Backend
from crucible.errors import CrucibleError
from crucible.testing.object_store import object_store
from crucible_components.merging.command import main
from crucible_components.merging.sources.testing import small_config, small_tensors, write_folder

pytestmark = pytest.mark.timeout(300)


def test_a_merge_from_and_after_faults_of_an_object_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("base", "one", "other")
    for seed, name in enumerate(names):
        write_folder(tmp_path / name, small_tensors(seed=seed), small_config())
    with object_store() as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        bucket = server.make_bucket()
        store = Store(S3Backend.connect(bucket, "models", server.environ))
        digests = {name: store.put_tree(tmp_path / name, type="Model").digest for name in names}
        remote = {name: f"s3://{bucket}/models@{digest}" for name, digest in digests.items()}
        local = {name: str(tmp_path / name) for name in names}
        for place, addresses in (("remote", remote), ("local", local)):
            file = {
                "merge_method": "sce",
                "base_model": addresses["base"],
                "models": [{"model": addresses["one"]}, {"model": addresses["other"]}],
                "parameters": {"select_topk": 0.5},
            }
            (tmp_path / f"{place}.yaml").write_text(yaml.safe_dump(file))
        out = ["--out", str(tmp_path / "out-remote"), "--quiet"]
        with monkeypatch.context() as patch:

            def fails(*_: object) -> bytes:
                raise CrucibleError("the store does not answer. Try again.")

            patch.setattr(S3Backend, "read_blob", fails)
            patch.setattr(S3Backend, "open_blob", fails)
            assert main(["run", str(tmp_path / "remote.yaml"), *out]) != 0
        assert not (tmp_path / "out-remote").exists()
        capsys.readouterr()
        assert main(["run", str(tmp_path / "remote.yaml"), *out]) == 0, capsys.readouterr().err
        assert (
            main(["run", str(tmp_path / "local.yaml"), "--out", str(tmp_path / "out-local")]) == 0
        )
    merged, expected = (
        load_file(tmp_path / f"out-{place}" / "model.safetensors") for place in ("remote", "local")
    )
    assert all(torch.equal(merged[name], tensor) for name, tensor in expected.items())
