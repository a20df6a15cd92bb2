"""Settings past those who replace text in braces on the way to a pod.

KFP's launcher and Argo replace ``{{…}}`` wherever they find it, and chat templates are full of it.
So a pair of braces travels with U+2060, an invisible joiner, between the two. Text that has joiners
between braces gets one more, which makes this reversible.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_JOINER = "\u2060"
_PAIR = re.compile(rf"\{{({_JOINER}*)(?=\{{)")
_QUOTED_PAIR = re.compile(rf"\{{{_JOINER}({_JOINER}*)(?=\{{)")


def quoted(value: Any) -> Any:
    """JSON with the same texts, none of which has ``{{``."""
    return _mapped(value, lambda text: _PAIR.sub(rf"{{\1{_JOINER}", text))


def unquoted(value: Any) -> Any:
    """What `quoted` was given."""
    return _mapped(value, lambda text: _QUOTED_PAIR.sub(r"{\1", text))


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """JSON with every text of it changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_mapped(key, change): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(item, change) for item in value]
    return value
