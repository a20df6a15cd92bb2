"""What holds for all tests."""

from __future__ import annotations

import os

# A developer whose current context is a cluster shall not run the tests there.
os.environ["CRUCIBLE_CONTEXT"] = "local"
