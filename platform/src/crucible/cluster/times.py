"""Times as the Kubernetes API writes them."""

from __future__ import annotations

from datetime import UTC, datetime


def seconds_of(text: str | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; None for None and for what is no time."""
    if not text:
        return None
    head, _, fraction = text.rstrip("Z").partition(".")
    try:
        if text.endswith("Z"):
            at = datetime.fromisoformat(f"{head}+00:00").timestamp()
            return at + (float(f"0.{fraction}") if fraction.isdigit() else 0.0)
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def text_of(seconds: float) -> str:
    """The RFC 3339 time, whole seconds, rounded down."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
