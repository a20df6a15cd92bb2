"""The one way to an MLflow client: quiet, without telemetry, safe at first use by many processes.

MLflow 3.17 imports pandas, fastapi and its whole genai tree in ``mlflow/__init__.py``, so no part
of it costs less than the whole: about 2 s, with SQLAlchemy 3 s, on two cores. Processes that can do
without it therefore never come here: steps write events, and one relay per run pays once.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from crucible.errors import (
    CrucibleError,
    RegistryError,
    TrackingError,
    TrackingUnavailable,
    UserError,
)
from crucible.settings import Settings

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own 7 tries with backoff block for minutes; the callers here have a better loop.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
_LASTING_REFUSALS: Final = frozenset(
    {
        "ALREADY_EXISTS",
        "BAD_REQUEST",
        "CUSTOMER_UNAUTHORIZED",
        "ENDPOINT_NOT_FOUND",
        "FEATURE_DISABLED",
        "INVALID_PARAMETER_VALUE",
        "INVALID_STATE",
        "MALFORMED_REQUEST",
        "NOT_FOUND",
        "NOT_IMPLEMENTED",
        "PERMISSION_DENIED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_CONFLICT",
        "RESOURCE_DOES_NOT_EXIST",
        "UNAUTHENTICATED",
    }
)
_CHECK: Final = "Check MLFLOW_TRACKING_URI and the server."
_PASSWORD: Final = re.compile(r"(://[^/@\s:]*):[^/@\s]*@")
_LOCAL_SCHEMES: Final = frozenset({"", "file", "sqlite"})


def connect(settings: Settings) -> MlflowClient:
    """A client of the configured MLflow; makes the SQLite database on first use.

    Raises:
        TrackingUnavailable: the server or database did not answer.
        UserError: the tracking URI is not one that MLflow knows.
    """
    uri = settings.mlflow_tracking_uri
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        # Deprecations among MLflow, SQLAlchemy and alembic are theirs to settle.
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        with mlflow_errors(f"connect to MLflow at {uri}"), _database_lock(uri):
            return MlflowClient(tracking_uri=uri, registry_uri=uri)


def check_server(settings: Settings) -> None:
    """Raise unless MLflow answers a read request.

    Raises:
        TrackingUnavailable: it does not.
        UserError: the tracking URI is not one that MLflow knows.
    """
    client = connect(settings)
    with mlflow_errors(f"read from MLflow at {settings.mlflow_tracking_uri}"):
        client.search_experiments(max_results=1)


def ensure_experiment(client: MlflowClient, settings: Settings, name: str) -> str:
    """Id of experiment ``name``, created if there is none.

    Its artifacts go to the home folder if MLflow is a local database, else where its server says.

    Raises:
        UserError: the experiment was deleted in MLflow.
    """
    from mlflow.exceptions import MlflowException

    with mlflow_errors(f"find MLflow experiment {name}"):
        found = client.get_experiment_by_name(name)
        if found is None:
            location = (
                settings.mlflow_artifacts_dir.as_uri()
                if is_local(settings.mlflow_tracking_uri)
                else None
            )
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except MlflowException as cause:
                if cause.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            # Another run of the pipeline made it in between.
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise UserError(
            f"MLflow experiment {name!r} is deleted, so no run can be written to it. Restore it "
            "(mlflow experiments restore) or rename the pipeline."
        )
    return str(found.experiment_id)


def is_local(tracking_uri: str) -> bool:
    """True if MLflow is a database or folder of this machine instead of a server."""
    return urlsplit(tracking_uri).scheme in _LOCAL_SCHEMES


@contextlib.contextmanager
def mlflow_errors(
    action: str, refused: type[TrackingError] | type[RegistryError] = TrackingError
) -> Iterator[None]:
    """Give MLflow's errors a type: ``refused`` if asking again is pointless, else unavailable.

    Raises:
        CrucibleError: unchanged if already typed.
        TrackingUnavailable: MLflow, its database or the way to it failed.
    """
    try:
        yield
    except CrucibleError:
        raise
    except Exception as cause:
        from mlflow.exceptions import MlflowException

        if isinstance(cause, MlflowException):
            raise _typed(action, cause, refused) from cause
        message = without_password(f"{action}: {type(cause).__name__}: {cause}.")
        raise TrackingUnavailable(f"{message} {_CHECK}") from cause


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold ``path`` against other processes and threads; waits. The empty file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _typed(
    action: str,
    cause: MlflowException,
    refused: type[TrackingError] | type[RegistryError],
) -> CrucibleError:
    message = without_password(f"{action}: {cause.message}")
    if "unsupported" in message.lower() and "uri" in message.lower():
        return UserError(f"{message} Set MLFLOW_TRACKING_URI to http(s):// or sqlite:///.")
    if cause.error_code in _LASTING_REFUSALS:
        return refused(message)
    return TrackingUnavailable(f"{message} {_CHECK}")


@contextlib.contextmanager
def _database_lock(uri: str) -> Iterator[None]:
    """One process at a time creates the tables of a SQLite database; others wait.

    MLflow 3.17 checks and then creates without a lock; two at once end in "table already exists".
    """
    if urlsplit(uri).scheme != "sqlite" or ":memory:" in uri:
        yield
        return
    path = Path(uri.removeprefix("sqlite:///"))
    with exclusive_lock(path.with_name(path.name + ".lock")):
        yield


def without_password(text: str) -> str:
    """``text`` with the passwords of all URIs in it hidden: fit for messages and files."""
    return _PASSWORD.sub(r"\1:***@", text)
