"""A merge that is killed at any moment, again and again, ends with the same bytes."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from crucible_components.merging.command import main

SEEDS = 30
MODELS = ("base", "a", "b", "c")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def merge_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    shapes = {f"layers.{index}.up.weight": (512, 512) for index in range(24)}
    for number, name in enumerate(MODELS):
        generator = torch.Generator().manual_seed(number)
        (folder / name).mkdir()
        save_file(
            {
                tensor: (torch.ones(shape) + torch.randn(shape, generator=generator)).bfloat16()
                for tensor, shape in {"embed.weight": (2048, 512), **shapes}.items()
            },
            folder / name / "model.safetensors",
        )
        (folder / name / "config.json").write_text(json.dumps({"model_type": "toy"}))
    path = folder / "merge.yaml"
    content = {
        "merge_method": "dare_ties",
        "base_model": str(folder / "base"),
        "models": [{"model": str(folder / name)} for name in MODELS[1:]],
        "parameters": {"weight": 0.4, "density": 0.5},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def started(file: Path, out: Path) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["crucible_components.merging.command", "crucible_components.merging.preparing"]
    )
    options = ["--out", str(out), "--quiet", "--threads", "2", "--commit-mib", "1"]
    options += ["--cache-mib", "3", "--shard-gb", "0.004", "--json"]
    process = context.Process(target=main, args=(["run", str(file), *options],))
    process.start()
    return process


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def entries(out: Path) -> int:
    """How many times the merge into ``out`` has said that tensors are written."""
    try:
        journal = (out.with_name(f"{out.name}.part") / "journal.jsonl").read_bytes()
    except FileNotFoundError:  # not begun; or just ended, and named ``out``
        return 0
    return max(0, journal.count(b"\n") - 1)


def test_thirty_seeded_kills_give_the_same_bytes(merge_file: Path, tmp_path: Path) -> None:
    started(merge_file, tmp_path / "whole").join()
    whole = digests(tmp_path / "whole")
    assert sum(name.endswith(".safetensors") for name in whole) > 3
    num_kills = 0
    for seed in range(SEEDS):
        generator, out = random.Random(seed), tmp_path / f"out-{seed}"
        while not out.exists():
            wanted = entries(out) + generator.randrange(9)
            process = started(merge_file, out)
            while process.is_alive() and entries(out) < wanted:
                time.sleep(0.002)
            process.join(generator.uniform(0, 0.03))
            process.kill()
            process.join()
            num_kills += process.exitcode != 0
        assert digests(out) == whole, f"seed {seed}"
    assert num_kills > SEEDS
