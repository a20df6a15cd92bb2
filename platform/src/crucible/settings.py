"""Where this installation keeps things: home folder, artifact store, MLflow.

All state of the embedded default lives in one folder, ``.crucible``: found like ``.git``, in the
working folder or the nearest parent that has one, else made in the working folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOME_DIR_NAME = ".crucible"


@dataclass(frozen=True)
class Settings:
    """Resolved locations. Build with `Settings.load`."""

    home_dir: Path
    """Folder of runs, checkpoints and the embedded store and database."""
    store_uri: str
    """Artifact store: ``file:///folder`` or ``s3://bucket/prefix``."""
    mlflow_tracking_uri: str
    """MLflow tracking server and registry; SQLite in the home folder by default."""

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
        """Read ``CRUCIBLE_HOME``, ``CRUCIBLE_STORE``, ``MLFLOW_TRACKING_URI``; default the rest."""
        env = os.environ if environ is None else environ
        named = env.get("CRUCIBLE_HOME")
        home_dir = Path(named).resolve() if named else _find_home_dir(cwd or Path.cwd())
        return cls(
            home_dir=home_dir,
            store_uri=env.get("CRUCIBLE_STORE") or (home_dir / "store").as_uri(),
            mlflow_tracking_uri=env.get("MLFLOW_TRACKING_URI")
            or f"sqlite:///{home_dir / 'mlflow.db'}",
        )


def _find_home_dir(start_dir: Path) -> Path:
    start_dir = start_dir.resolve()
    for folder in (start_dir, *start_dir.parents):
        if (folder / HOME_DIR_NAME).is_dir():
            return folder / HOME_DIR_NAME
    return start_dir / HOME_DIR_NAME
