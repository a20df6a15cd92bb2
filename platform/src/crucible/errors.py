"""The exception tree. Every message names the value, the rule and the fix.

CrucibleError                   exit code 1: something failed
├── UserError (ValueError)      exit code 2: bad input; carries every problem found
├── TemporaryError (OSError)    exit code 75: try again later; the only class retried
│   ├── StoreUnavailable        the artifact store did not answer
│   ├── TrackingUnavailable     MLflow did not answer
│   ├── ClusterUnavailable      the Kubernetes API, or what lies behind it, did not answer
│   └── PeerLost                another process of a step on several nodes is gone
├── ArtifactError (OSError)     exit code 1: an artifact cannot be read or written
│   ├── ArtifactNotFound        no such manifest or blob
│   ├── ArtifactCorrupt         bytes differ from their digest
│   └── StoreFull               no space left where the artifact should go
├── StepFailed (RuntimeError)   exit code 1: a step's process ended badly
│   └── OutputMissing           it ended without writing what it declares
├── RunNotFound (KeyError)      exit code 2: no run of that id
├── TrackingError (RuntimeError) exit code 1: MLflow refused a request
├── RegistryError               exit code 1: the model registry refused
│   └── GateRefused             promotion gate said no; carries the decision
├── ClusterError (RuntimeError) exit code 1: the Kubernetes API refused a request
│   ├── ClusterRefused          no permission; names the right that is missing
│   ├── ObjectNotFound          no such object, or no such kind of object
│   ├── ObjectConflict          it exists already, or somebody changed it meanwhile
│   ├── ObjectRejected          invalid, over quota, or denied by an admission policy
│   └── VersionGone             the version asked for is too old: list again
├── ImageError (RuntimeError)   exit code 1: a container image was not built or pushed
└── Cancelled                   exit code 1: the user or a signal ended it

Adding one: subclass the nearest node and a standard error, keep ``__init__`` picklable (all
arguments in ``args``), set ``exit_code`` where it differs from the parent's, add the line above.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_TEMPORARY = 75


@dataclass(frozen=True)
class Problem:
    """One mistake in a file or argument: where, which rule, how to fix it."""

    path: str
    """Dotted path of the field, e.g. ``steps.align.with.stage``; empty for the whole input."""
    message: str
    """The value and the rule it breaks."""
    fix: str = ""
    """What to do, did-you-mean included."""
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        head = ": ".join(part for part in (where, self.path, self.message) if part)
        return f"{head} {self.fix}".rstrip()

    def to_json(self) -> dict[str, object]:
        return asdict(self)


class CrucibleError(Exception):
    """Root of all errors this project raises on purpose."""

    exit_code = EXIT_FAILED

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__

    def __str__(self) -> str:
        return self.message

    def to_json(self) -> dict[str, object]:
        """What commands print with ``--json``."""
        problems: Sequence[Problem] = getattr(self, "problems", ())
        return {
            "error": type(self).__name__,
            "message": self.message,
            "problems": [problem.to_json() for problem in problems],
            "exit_code": self.exit_code,
        }


class UserError(CrucibleError, ValueError):
    """Bad input. ``problems`` lists everything that was found wrong."""

    exit_code = EXIT_USER_ERROR

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message, tuple(problems))
        self.problems = tuple(problems)


class TemporaryError(CrucibleError, OSError):
    """A fault that may be gone on the next try: network, busy service, lost node."""

    exit_code = EXIT_TEMPORARY


class StoreUnavailable(TemporaryError):
    """The artifact store did not answer."""


class TrackingUnavailable(TemporaryError):
    """MLflow did not answer."""


class ClusterUnavailable(TemporaryError):
    """The Kubernetes API, or a service behind it, did not answer."""


class PeerLost(TemporaryError):
    """Another process of a distributed step is gone; the cause of it is that one's."""


class ArtifactError(CrucibleError, OSError):
    """An artifact cannot be read or written."""


class ArtifactNotFound(ArtifactError):
    """No manifest or blob of that digest."""


class ArtifactCorrupt(ArtifactError):
    """Stored bytes differ from their digest."""


class StoreFull(ArtifactError):
    """No space left for the artifact."""


class StepFailed(CrucibleError, RuntimeError):
    """A step ended without success."""


class OutputMissing(StepFailed):
    """A step ended without writing an output that it declares."""


class RunNotFound(CrucibleError, KeyError):
    """No run of that id."""

    exit_code = EXIT_USER_ERROR


class TrackingError(CrucibleError, RuntimeError):
    """MLflow refused a request."""


class RegistryError(CrucibleError, RuntimeError):
    """The model registry refused."""


class GateRefused(RegistryError):
    """The promotion gate said no."""


class ClusterError(CrucibleError, RuntimeError):
    """The Kubernetes API refused a request."""


class ClusterRefused(ClusterError):
    """The user of the cluster has no right to do this."""


class ObjectNotFound(ClusterError):
    """No object of that name, or the cluster does not know its kind."""


class ObjectConflict(ClusterError):
    """An object of that name exists already, or somebody changed it meanwhile."""


class ObjectRejected(ClusterError):
    """The object is invalid, over quota, or denied by an admission policy."""


class VersionGone(ClusterError):
    """The cluster no longer knows the version from which changes were asked for."""


class ImageError(CrucibleError, RuntimeError):
    """A container image was not built or not pushed."""


class Cancelled(CrucibleError, RuntimeError):
    """Ended by the user or by a signal."""


@contextlib.contextmanager
def boundary(error: type[CrucibleError], action: str) -> Iterator[None]:
    """Give whatever escapes foreign code a type, as in ``boundary(StoreUnavailable, "read blob")``.

    Raises:
        CrucibleError: unchanged if already typed, else ``error`` chained to the cause.
    """
    try:
        yield
    except CrucibleError:
        raise
    except Exception as cause:
        raise error(f"{action}: {type(cause).__name__}: {cause}") from cause
