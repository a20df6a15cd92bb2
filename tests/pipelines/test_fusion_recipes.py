"""FuseO1's and FuseChat's merges from their own files, on small models in a cache of the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from crucible.artifacts import Store
from crucible.artifacts.file_backend import FileBackend
from crucible_components.hub.testing import write_family

PLATFORMCTL = Path(sys.executable).parent / "platformctl"
PIPELINES = Path(__file__).parents[2] / "pipelines"

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(900)]


def run(name: str, folder: Path) -> Any:
    """Submit the pipeline with its small preset; no network is there."""
    environ = {
        **os.environ,
        "CRUCIBLE_HOME": str(folder / "home"),
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
    }
    pipeline = PIPELINES / name / "pipeline.yaml"
    done = subprocess.run(
        [PLATFORMCTL, "submit", pipeline, "--preset", "small", "--json"],
        env=environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout)


def names_of(name: str) -> list[str]:
    """The models that the small preset names, the base first."""
    params = yaml.safe_load((PIPELINES / name / "presets/small.yaml").read_text())["params"]
    lists = [value if isinstance(value, list) else [value] for value in params.values()]
    return list(dict.fromkeys(name for names in lists for name in names))


def test_fuseo1(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_family(
        tmp_path / "hub", names_of("fuseo1"), {"small/r1": ("<｜User｜>", "<｜Assistant｜>")}
    )
    state = run("fuseo1", tmp_path)
    assert state["status"] == "succeeded"
    merges = {n: s for n, s in state["steps"].items() if s["component"] == "merge-models"}
    assert len(merges) == 5
    assert len({step["outputs"]["model"] for step in merges.values()}) == 5
    store = Store(FileBackend(tmp_path / "home" / "store"))
    digest = merges["r1-qwq-sky"]["outputs"]["model"]
    folder = store.reader(digest, tmp_path / "scratch").local_dir()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("<｜User｜>") != tokenizer.unk_token_id
    model = AutoModelForCausalLM.from_pretrained(folder)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "w1 w2"}], tokenize=False)
    assert text.startswith("<｜User｜>")
    logits = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits
    assert logits.isfinite().all()


def test_fusechat(tmp_path: Path) -> None:
    write_family(tmp_path / "hub", names_of("fusechat"), {})
    state = run("fusechat", tmp_path)
    assert state["status"] == "succeeded"
    merges = [s for s in state["steps"].values() if s["component"] == "merge-models"]
    assert len({step["outputs"]["model"] for step in merges}) == len(merges) == 6
