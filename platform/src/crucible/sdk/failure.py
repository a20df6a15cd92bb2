"""Why a step ended badly, as the document that engines read.

``failure.json`` stands beside the executor output. Its causes are those of
`crucible.engines.state.FailureCause`; a step that is killed outright writes none, and the engine
finds the cause itself.
"""

from __future__ import annotations

import errno
import json
import signal
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from crucible.artifacts.files import write_atomically
from crucible.errors import (
    EXIT_FAILED,
    EXIT_TEMPORARY,
    EXIT_USER_ERROR,
    ArtifactError,
    Cancelled,
    CrucibleError,
    OutputMissing,
    PeerLost,
    StoreFull,
    TemporaryError,
    UserError,
)
from crucible.sdk.process import Terminated

FILE_NAME = "failure.json"
PEER_LOST = "peer-lost"
"""Cause of a process that ended because another of its step did; whoever started them all reads it,
and tells engines the cause of the other."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_FIXES = {
    "user-error": "Correct the pipeline file or the input, then submit again.",
    "raised": "The traceback is in the step's log. Correct the component, then resume the run.",
    "out-of-memory": "Raise the step's resources.memory_gib, or make its batches smaller; resume.",
    "killed": "Resume the run: it goes on from the step's last checkpoint.",
    "no-output": "Write every output in run(), or declare it `| None` if it may be left out.",
    PEER_LOST: "See the log of the process that ended first, then resume the run.",
    "temporary": "Resume the run when the service answers again.",
    "store": "See the message for what the artifact store lacks, then resume the run.",
}


_BY_EXIT_CODE = {
    EXIT_USER_ERROR: ("user-error", "See its log, correct the input, resume the run."),
    EXIT_TEMPORARY: ("temporary", "See its log; resume the run later."),
    EXIT_FAILED: ("raised", "See its log, correct the component, resume the run."),
}


@dataclass(frozen=True)
class FailureRecord:
    """A failure without the log's tail, which the engine adds."""

    cause: str
    message: str
    fix: str
    exit_code: int

    def write(self, path: Path) -> None:
        write_atomically(path, json.dumps(asdict(self), indent=1).encode())


def failure_of(error: BaseException) -> FailureRecord:
    """Cause, message, fix and exit code of whatever ended a step."""
    cause = _cause(error)
    exit_code = EXIT_FAILED
    if isinstance(error, (CrucibleError, Terminated)):
        exit_code = error.exit_code
    fix = _FIXES[cause]
    if _is_disk_full(error):
        fix = "Free space (`platformctl artifacts gc` helps), then resume the run."
    return FailureRecord(cause, _message(error), fix, exit_code)


def read_failure(path: Path) -> FailureRecord | None:
    """What a step process wrote before it ended; None if it could not."""
    try:
        value = json.loads(path.read_text())
        return FailureRecord(
            str(value["cause"]), str(value["message"]), str(value["fix"]), int(value["exit_code"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def failure_of_exit(exit_code: int, written: FailureRecord | None) -> FailureRecord:
    """Why a process that was not asked to end did so.

    Args:
        exit_code: its own, or minus the signal that ended it.
        written: what it left, if anything.
    """
    if written is not None:
        return FailureRecord(written.cause, written.message, written.fix, exit_code)
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        fix = "See its log. A crash in native code often means too little memory or a broken build."
        return FailureRecord("killed", f"ended by {name}", fix, exit_code)
    message = f"ended with exit code {exit_code} and gave no reason"
    cause, fix = _BY_EXIT_CODE.get(exit_code, _BY_EXIT_CODE[EXIT_FAILED])
    return FailureRecord(cause, message, fix, exit_code)


def _cause(error: BaseException) -> str:
    if isinstance(error, (Terminated, Cancelled)):
        return "killed"
    if isinstance(error, UserError):
        return "user-error"
    if isinstance(error, PeerLost):
        return PEER_LOST
    if isinstance(error, TemporaryError):
        return "temporary"
    if isinstance(error, OutputMissing):
        return "no-output"
    if isinstance(error, ArtifactError) or _is_disk_full(error):
        return "store"
    if _is_out_of_memory(error):
        return "out-of-memory"
    return "raised"


def _is_disk_full(error: BaseException) -> bool:
    full = isinstance(error, OSError) and error.errno in _FULL
    return full or isinstance(error, StoreFull)


def _is_out_of_memory(error: BaseException) -> bool:
    """True also for torch's own class, which is no MemoryError and must not be imported here."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"})


def _message(error: BaseException) -> str:
    if isinstance(error, Terminated):
        return f"cancelled by signal {error.signal_number}"
    if isinstance(error, CrucibleError):
        return error.message
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
