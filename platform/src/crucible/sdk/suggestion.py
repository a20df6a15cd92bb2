"""The fix part of an error about a name: the nearest valid one, and the list of all."""

from __future__ import annotations

from collections.abc import Iterable

_MAX_LISTED = 20


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``Did you mean 'x'? Valid: ….``, without the first half if nothing is near ``word``."""
    import difflib  # only bad input pays for it

    names = sorted(options)
    if not names:
        return "There is nothing to choose from."
    listed = ", ".join(names[:_MAX_LISTED]) + (", …" if len(names) > _MAX_LISTED else "")
    near = difflib.get_close_matches(word, names, n=1)
    head = f"Did you mean {near[0]!r}? " if near else ""
    return f"{head}Valid: {listed}."
