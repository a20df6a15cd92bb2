"""The merge command: what it prints, its exit codes, and what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from crucible.errors import EXIT_USER_ERROR
from crucible_components.merging.command import main
from crucible_components.merging.sources.testing import small_config, small_tensors, write_folder


@pytest.fixture
def merge_file(tmp_path: Path) -> Path:
    for seed, name in enumerate(("base", "one", "other")):
        write_folder(tmp_path / name, small_tensors(seed=seed), small_config())
    return write_file(tmp_path)


def write_file(folder: Path, **changes: Any) -> Path:
    content = {
        "merge_method": "task_arithmetic",
        "base_model": str(folder / "base"),
        "models": [{"model": str(folder / name)} for name in ("one", "other")],
        "parameters": {"weight": 0.5},
        "dtype": "float32",
    }
    path = folder / "merge.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


def test_run_writes_a_model_and_a_report(
    merge_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "out", tmp_path / "report.html"
    assert main(["run", str(merge_file), "--out", str(out), "--report", str(report), "--json"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["output_bytes"] == 4 * document["parameters"]
    assert "tensors of" in said.err
    assert report.read_text().startswith("<!doctype html>")
    assert {path.name for path in out.iterdir()} == {
        "README.md", "config.json", "merge.yaml", "model.safetensors",
    }  # fmt: skip
    base, one, other = (
        load_file(tmp_path / name / "model.safetensors") for name in ("base", "one", "other")
    )
    for name, merged in load_file(out / "model.safetensors").items():
        theta = base[name].float()
        expected = theta + 0.5 * (one[name].float() - theta) + 0.5 * (other[name].float() - theta)
        assert torch.allclose(merged, expected, rtol=1e-6)
    assert not (tmp_path / "out.part").exists()
    assert main(["run", str(merge_file), "--out", str(out)]) == EXIT_USER_ERROR
    assert "never writes over anything" in capsys.readouterr().err


def test_plan_reads_headers_alone(
    merge_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "one" / "model.safetensors"
    broken = load_file(weights)
    broken["model.norm.weight"][0] = float("nan")  # found when it is read, not now
    write_folder(tmp_path / "one", broken, small_config())
    assert main(["plan", str(merge_file), "--out", str(tmp_path / "not" / "there")]) == 0
    assert "parameters 148" in capsys.readouterr().out
    assert main(["run", str(merge_file), "--out", str(tmp_path / "out"), "--quiet"]) == 1
    assert "model.norm.weight has nan at position 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"merge_method": "task_arithmetics"}, "Did you mean 'task_arithmetic'?"),
        ({"base_model": "no/such"}, "no/such: is not in the local cache"),
        ({"models": [{"model": "./nowhere"}]}, "./nowhere: no such folder or input."),
        ({"unknown": 1}, "unknown: is not a setting of a merge file."),
    ],
)
def test_mistakes_end_with_2_and_one_error(
    changes: dict[str, Any],
    told: str,
    merge_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    path = write_file(tmp_path, **changes)
    assert main(["plan", str(path), "--json"]) == EXIT_USER_ERROR
    document = json.loads(capsys.readouterr().out)
    told_at_once = ["{path}: {message} {fix}".format(**each) for each in document["problems"]]
    assert any(told in each for each in told_at_once)
    assert main(["plan", str(path)]) == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count(told) == 1


def test_a_file_that_is_not_yaml_or_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tmp_path / "absent.yaml")]) == EXIT_USER_ERROR
    assert "No such file" in capsys.readouterr().err
    path = tmp_path / "bad.yaml"
    for text, told in (("a: [", "is not YAML"), ("- 1", "holds list, not a mapping")):
        path.write_text(text)
        assert main(["plan", str(path)]) == EXIT_USER_ERROR
        assert told in capsys.readouterr().err


def test_options_are_checked(merge_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(merge_file), "--threads", "0"]) == EXIT_USER_ERROR
    assert "--threads: is 0; more than 0 is meant." in capsys.readouterr().err


def test_platformctl_hands_over(merge_file: Path, tmp_path: Path) -> None:
    platformctl = [sys.executable, "-m", "crucible.cli.main", "merge"]
    out = tmp_path / "out"
    done = subprocess.run(
        [*platformctl, "run", str(merge_file), "--out", str(out), "--threads", "1", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["out"] == str(out)
    assert (out / "model.safetensors").exists()
