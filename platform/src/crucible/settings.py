"""Where this installation keeps things: home folder, artifact store, MLflow.

All state of the embedded default lives in one folder, ``.crucible``: found like ``.git``, in the
working folder or the nearest parent that has one, else made in the working folder. Where runs go is
the context: this machine, unless the user has chosen a cluster.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOME_DIR_NAME = ".crucible"
LOCAL_CONTEXT = "local"
"""Name of the context that is no cluster: processes on this machine."""
CONTEXT_VARIABLE = "CRUCIBLE_CONTEXT"


@dataclass(frozen=True)
class Settings:
    """Resolved locations. Build with `Settings.load`."""

    home_dir: Path
    """Folder of runs, checkpoints and the embedded store and database."""
    store_uri: str
    """Artifact store: ``file:///folder`` or ``s3://bucket/prefix``."""
    mlflow_tracking_uri: str
    """MLflow tracking server and registry; SQLite in the home folder by default."""
    context: str | None = None
    """Name of the context in which pipelines run; None is this machine."""

    @property
    def runs_dir(self) -> Path:
        return self.home_dir / "runs"

    @property
    def checkpoints_dir(self) -> Path:
        return self.home_dir / "checkpoints"

    @property
    def mlflow_artifacts_dir(self) -> Path:
        return self.home_dir / "mlflow-artifacts"

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
        """Read ``CRUCIBLE_HOME``, ``…_STORE``, ``…_CONTEXT``, ``MLFLOW_TRACKING_URI``.

        What is not set has its default; the context that of ``platformctl context use``.
        """
        env = os.environ if environ is None else environ
        named = env.get("CRUCIBLE_HOME")
        home_dir = Path(named).resolve() if named else _find_home_dir(cwd or Path.cwd())
        return cls(
            home_dir=home_dir,
            store_uri=env.get("CRUCIBLE_STORE") or (home_dir / "store").as_uri(),
            mlflow_tracking_uri=env.get("MLFLOW_TRACKING_URI")
            or f"sqlite:///{home_dir / 'mlflow.db'}",
            context=_context_name(env),
        )


def config_dir(environ: Mapping[str, str]) -> Path | None:
    """The user's folder of contexts, the same for all homes; None if ``environ`` names no home."""
    base, home = environ.get("XDG_CONFIG_HOME"), environ.get("HOME")
    if base:
        return Path(base) / "crucible"
    return Path(home) / ".config" / "crucible" if home else None


def _context_name(environ: Mapping[str, str]) -> str | None:
    name = environ.get(CONTEXT_VARIABLE, "").strip() or _chosen_context(config_dir(environ))
    return None if name == LOCAL_CONTEXT else name


def _chosen_context(folder: Path | None) -> str | None:
    if folder is None:
        return None
    try:
        return (folder / "context").read_text(encoding="utf-8").strip() or None
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None


def _find_home_dir(start_dir: Path) -> Path:
    start_dir = start_dir.resolve()
    for folder in (start_dir, *start_dir.parents):
        if (folder / HOME_DIR_NAME).is_dir():
            return folder / HOME_DIR_NAME
    return start_dir / HOME_DIR_NAME
