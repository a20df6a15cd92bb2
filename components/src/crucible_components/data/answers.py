"""When two short answers count as the same: for rewards and for evaluation alike."""

from __future__ import annotations

import re


def normalise_answer(text: str) -> str:
    """``text`` without what never matters: case, spacing, quotes around it, full stops behind."""
    collapsed = re.sub(r"\s+", " ", text).casefold()
    return collapsed.lstrip("\"'` ").rstrip("\"'`. ")
