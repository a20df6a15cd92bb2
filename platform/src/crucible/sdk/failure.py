"""Why a step ended badly, as the document that engines read.

``failure.json`` stands beside the executor output. Its causes are those of
`crucible.engines.state.FailureCause`; a step that is killed outright writes none, and the engine
finds the cause itself.
"""

from __future__ import annotations

import errno
import json
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from crucible.artifacts.files import write_atomically
from crucible.errors import (
    EXIT_FAILED,
    ArtifactError,
    CrucibleError,
    OutputMissing,
    StoreFull,
    TemporaryError,
    UserError,
)
from crucible.sdk.process import Terminated

FILE_NAME = "failure.json"

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

_FIXES = {
    "user-error": "Correct the pipeline file or the input, then submit again.",
    "raised": "The traceback is in the step's log. Correct the component, then resume the run.",
    "out-of-memory": "Raise the step's resources.memory_gib, or make its batches smaller; resume.",
    "killed": "Resume the run: it goes on from the step's last checkpoint.",
    "no-output": "Write every output in run(), or declare it `| None` if it may be left out.",
    "temporary": "Resume the run when the service answers again.",
    "store": "See the message for what the artifact store lacks, then resume the run.",
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


def _cause(error: BaseException) -> str:
    if isinstance(error, Terminated):
        return "killed"
    if isinstance(error, UserError):
        return "user-error"
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
