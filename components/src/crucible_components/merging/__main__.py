"""``python -m crucible_components.merging``: what `platformctl merge` runs."""

from __future__ import annotations

import sys

from crucible_components.merging.command import main

if __name__ == "__main__":
    sys.exit(main())
