"""Our names and values in the forms that MLflow accepts, changed visibly or not at all.

MLflow takes letters, digits and ``_ - . : / space`` in the keys of metrics and params, 6,000
characters in a param and 8,000 in a tag, and by default cuts longer values without a word.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping
from typing import Any, Final

MAX_PARAM_CHARS: Final = 6000
MAX_TAG_CHARS: Final = 8000
MAX_KEY_CHARS: Final = 250

_REFUSED = re.compile(r"[^\w\-. :/]")


def mlflow_key(name: str) -> str:
    """``name`` if MLflow takes it as a key, else a readable key that no other name shares.

    A character outside MLflow's alphabet becomes its code point: ``pass@1`` is ``pass_x40_1``. A
    name that reads as an unclean path or is too long gets a digest of itself.
    """
    key = _REFUSED.sub(lambda found: f"_x{ord(found[0]):x}_", name)
    clean = posixpath.normpath(key).lstrip("./") or "_"
    if clean != key or len(key) > MAX_KEY_CHARS:
        key = f"{clean[: MAX_KEY_CHARS - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return key


def param_value(value: Any) -> str:
    """A string as it is, anything else as JSON; beyond MLflow's limit its digest and length."""
    return _within(value if isinstance(value, str) else _json(value), MAX_PARAM_CHARS)


def tag_value(value: Any) -> str:
    """As `param_value`, with the limit of tags."""
    return _within(value if isinstance(value, str) else _json(value), MAX_TAG_CHARS)


def epoch_ms(time_seconds: float | None) -> int | None:
    """MLflow's unit of time."""
    return None if time_seconds is None else round(time_seconds * 1000)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Params of a nested config: ``{"method": {"top_k": 3}}`` gives ``{"method.top_k": "3"}``."""
    params: dict[str, str] = {}
    for name, value in config.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            params |= flatten(value, f"{path}.")
        else:
            params[mlflow_key(path)] = param_value(value)
    return params


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def _within(text: str, max_chars: int) -> str:
    if len(text) <= max_chars:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[:200]}… ({len(text)} characters, sha256:{digest}, whole in the run's plan.json)"
