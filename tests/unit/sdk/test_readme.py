import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from crucible.sdk import catalogue

README = Path(catalogue.__file__).with_name("README.md")
RECORDS = [
    {"id": "1", "conversations": [{"from": "human", "value": "What is a cat ?"}]},
    {"id": "2", "conversations": [{"from": "gpt", "value": "An animal"}]},
]


def test_example_component_runs_as_written(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (bench.folder / "word_count.py").write_text(code)
    monkeypatch.syspath_prepend(bench.folder)
    (bench.folder / "chats").mkdir()
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    (bench.folder / "chats" / "records.jsonl").write_text(lines)
    ref = bench.store.put_tree(bench.folder / "chats", type="Dataset", variant="conversations")
    ref.write(bench.folder / "chats.ref")

    inputs = {"dataset": [bench.folder / "chats.ref"]}
    done = bench.run("word_count:WordCount", {"min_letters": 2}, inputs)
    page = catalogue.reference_markdown(catalogue.load_component("word_count:WordCount"))
    sys.modules.pop("word_count")

    assert done.exit_code == 0, done.log
    assert done.ref("metrics").manifest.metadata == {"human_words": 3, "gpt_words": 2}
    assert "| `min_letters` | `integer ≥ 1` | `1` | Shorter words are not counted. |" in page
