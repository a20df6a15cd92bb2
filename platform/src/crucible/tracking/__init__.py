"""MLflow tracking: runs, nested step runs, and the relay that writes them."""

from crucible.tracking.client import check_server

__all__ = ["check_server"]
