"""An append-only record of every move in the registry, kept in the home folder."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from crucible.tracking.provenance import user_name

FILE_NAME = "registry-audit.jsonl"


def record(home_dir: Path, action: str, **details: Any) -> None:
    """Append one line, who did what when, and sync it; called before the move is made."""
    entry = {"time": time.time(), "actor": user_name(), "action": action, **details}
    home_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(
        home_dir / FILE_NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644
    )
    try:
        # One write of one line: concurrent appenders do not mix.
        os.write(descriptor, json.dumps(entry).encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def entries(home_dir: Path) -> list[dict[str, Any]]:
    """All recorded moves, oldest first."""
    path = home_dir / FILE_NAME
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
