"""``python -m crucible.step <component> --executor-input <json>``: one step as a process."""

from __future__ import annotations

import sys

from crucible.sdk.runner import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
