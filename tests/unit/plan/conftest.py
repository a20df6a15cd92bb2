"""Plans of pipeline files for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible.plan import Plan, build
from crucible.specs import load_pipeline

HEAD = "apiVersion: crucible/v1\nkind: Pipeline\nmetadata: {name: p}\n"
COMPONENTS = "crucible.testing.components:"
MakePlan = Callable[..., Plan]


@pytest.fixture
def make_plan(tmp_path: Path) -> MakePlan:
    """Plans the file with that body; ``NAME!`` stands for a component of `crucible.testing`."""

    def make_plan(body: str, overrides: dict[str, str] | None = None, **arguments: Any) -> Plan:
        path = tmp_path / "p.yaml"
        for name in ("Emit", "Sum", "Noop", "MakeModel", "CopyModel", "WantVision", "Raise"):
            body = body.replace(f"{name}!", f"'{COMPONENTS}{name}'")
        path.write_text(HEAD + body)
        return build(load_pipeline(path, overrides=overrides), **arguments)

    return make_plan
