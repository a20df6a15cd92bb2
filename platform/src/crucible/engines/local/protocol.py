"""What the supervisor and its step server say to each other: one JSON object a line."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Job:
    """One process to run: ``module.main(argv)`` in a session of its own."""

    id: str
    module: str
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    """The whole environment of the process."""
    log_path: str
    component: str = ""
    """What the server imports before it forks, so that every later job has it."""


@dataclass(frozen=True)
class Signal:
    """Send ``number`` to all processes of a job."""

    job: str
    number: int


@dataclass(frozen=True)
class Started:
    """The job's process exists."""

    job: str
    pid: int
    """Also the id of its session and process group."""


@dataclass(frozen=True)
class Exited:
    """The job's process has ended, its log is complete and nothing of its session is left."""

    job: str
    exit_code: int
    """As `subprocess` gives it: minus the signal's number if a signal ended it."""
    max_rss_bytes: int = 0
    """Largest resident set of the process or of a child that it waited for."""
    oom_kills: int | None = 0
    """How many processes of this machine the kernel killed for lack of memory meanwhile."""
    error: str = ""
    """Why the process could not even be started."""


Message = Job | Signal | Started | Exited
_KINDS: dict[str, type[Any]] = {cls.__name__: cls for cls in (Job, Signal, Started, Exited)}


@dataclass
class Channel:
    """Messages over a stream socket. Sending blocks, receiving takes what is there."""

    connection: socket.socket
    _received: bytes = field(default=b"", repr=False)

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, message: Message) -> None:
        """Deliver one message.

        Raises:
            OSError: the other side is gone.
        """
        value = {"kind": type(message).__name__, **asdict(message)}
        self.connection.sendall(json.dumps(value).encode() + b"\n")

    def receive(self) -> list[Message] | None:
        """What has arrived; None when the other side is gone. Waits for at least some bytes."""
        try:
            data = self.connection.recv(2**16)
        except ConnectionResetError:
            data = b""
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        return [_message(json.loads(line)) for line in lines]

    def close(self) -> None:
        self.connection.close()


def _message(value: dict[str, Any]) -> Message:
    if "argv" in value:
        value["argv"] = tuple(value["argv"])
    message: Message = _KINDS[value.pop("kind")](**value)
    return message
