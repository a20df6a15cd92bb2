"""Values as KFP carries them: protobuf's, in which every number is a double.

Source: ``structpb.Value`` and ``backend/src/v2/metadata/converter.go`` of Kubeflow Pipelines.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

Json = dict[str, Any]

_TYPES: dict[str, type | tuple[type, ...]] = {
    "STRING": str,
    "NUMBER_DOUBLE": (int, float),
    "NUMBER_INTEGER": (int, float),
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
    "TASK_FINAL_STATUS": dict,
}
_MAX_PLAIN = 1e21
"""Whole numbers below are written without an exponent."""


def as_value(value: Any) -> Any:
    """``value`` after a way through protobuf: whole numbers lose what a double cannot hold."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, float)):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{number} has no place in a protobuf Value")
        return int(number) if number.is_integer() and abs(number) < _MAX_PLAIN else number
    if isinstance(value, list):
        return [as_value(item) for item in value]
    return {str(key): as_value(item) for key, item in value.items()}


def has_type(value: Any, kind: str) -> bool:
    """True if a parameter of that type may have ``value``."""
    if isinstance(value, bool):
        return kind == "BOOLEAN"
    return kind in _TYPES and isinstance(value, _TYPES[kind])


def to_text(value: Any) -> str:
    """What a parameter of type STRING gets, and what stands for a value in a command line."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return format(Decimal(repr(value)), "f")
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def metadata_value(value: Any) -> Any:
    """What is left of an artifact's metadata when it comes out of KFP's metadata store.

    Raises:
        ValueError: it cannot go in.
    """
    if value is None:
        raise ValueError("unknown/unsupported value type")
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, list):
        return {"list": value}
    if isinstance(value, dict):
        return {"struct": value}
    return as_value(value)
