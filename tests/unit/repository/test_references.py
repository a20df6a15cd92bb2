"""Generated references are what the code says today."""

from __future__ import annotations

import pytest

from crucible.cli.reference import REFERENCE_DIR, references


@pytest.mark.parametrize("name", ["components.md", "cli.md", "pipeline.schema.json"])
def test_reference_is_fresh(name: str) -> None:
    assert (REFERENCE_DIR / name).read_text() == references()[name], "stale: run `make docs`"
