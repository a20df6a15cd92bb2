"""The method that the README adds is one."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest
import torch

from crucible_components.merging import methods
from crucible_components.merging.methods import METHODS
from crucible_components.merging.testing import merge


def test_the_readmes_method_works(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(methods.__file__).parents[1]
    [source] = re.findall(r"```python\n(.+?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len([line for line in source.splitlines() if line.strip()]) <= 20
    monkeypatch.setattr("crucible_components.merging.methods.registry.METHODS", METHODS)
    module = types.ModuleType("clipped")
    monkeypatch.setitem(sys.modules, "clipped", module)
    try:
        exec(compile(source, "README.md", "exec"), module.__dict__)
        base, model = torch.zeros(2, 50), torch.arange(1.0, 101.0).reshape(2, 50)
        merged = merge("clipped", [model], base, weight=2.0, quantile=0.9)
        assert torch.equal(merged, 2 * model.clamp(max=91.0))
    finally:
        METHODS.pop("clipped", None)
