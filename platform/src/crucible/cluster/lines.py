"""The lines of an answer that has no end yet."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import urllib3

logger = logging.getLogger(__name__)

_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Line:
    """One line."""

    data: bytes
    """Without its end."""
    is_whole: bool = True
    """Its end was there. The last line of an answer may have none."""


class Broken(Exception):
    """The answer broke off: not closed by the server in order, or silent for too long."""


def lines_of(response: urllib3.BaseHTTPResponse, *, raises: bool = False) -> Iterator[Line]:
    """The lines of ``response`` as they come in.

    Args:
        response: not yet read.
        raises: tell an answer that broke off from one that ended.

    Raises:
        Broken: if ``raises``.
    """
    rest = b""
    try:
        for chunk in _chunks(response):
            *whole, rest = (rest + chunk).split(b"\n")
            for data in whole:
                yield Line(data)
    except Broken as error:
        logger.debug("%s", error)
        if raises:
            raise
    if rest:
        yield Line(rest, is_whole=False)


def _chunks(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    import urllib3.exceptions

    stream = response.stream(_READ_BYTES)
    while True:
        try:
            chunk = next(stream, None)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise Broken(f"{type(error).__name__}: {error}") from error
        if chunk is None:
            return
        yield chunk
