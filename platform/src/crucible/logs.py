"""Logging set-up, called once by an entry point: text, or JSON lines for log collectors."""

from __future__ import annotations

import json
import logging
import sys
from typing import Literal

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, traceback if any."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(*, level: int = logging.INFO, form: Literal["text", "json"] = "text") -> None:
    """Send all records to stderr in ``form``. Later calls replace earlier ones."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if form == "json" else logging.Formatter(_TEXT, "%H:%M:%S")
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
