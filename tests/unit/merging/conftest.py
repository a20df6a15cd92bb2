"""mergekit is the oracle of these tests."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of mergekit's own use of what it imports
    import mergekit.config  # noqa: F401
