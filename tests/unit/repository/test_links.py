"""Every relative link and image in Markdown leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def test_relative_links_resolve() -> None:
    pages = [
        page
        for page in REPOSITORY.rglob("*.md")
        if not any(part.startswith(".") for part in page.relative_to(REPOSITORY).parts)
    ]
    assert pages
    broken = [
        f"{page.relative_to(REPOSITORY)}: {target}"
        for page in pages
        for target in LINK.findall(page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []
