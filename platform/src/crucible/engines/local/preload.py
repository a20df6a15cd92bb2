"""What the step server imports once so that no step of the run has to.

A component's declaring module costs some 20 ms (pydantic builds its models), torch seconds of CPU.
What fails here fails again in the step's own process, where it is reported; so nothing is raised.
"""

from __future__ import annotations

import contextlib
import importlib
import os

from crucible.sdk.catalogue import load_component
from crucible.sdk.process import import_at_once

_BACKENDS = {
    "file": "crucible.artifacts.file_backend",
    "s3": "crucible.artifacts.s3_backend",
}


def preload(component: str, store_uri: str) -> None:
    """Import the component, what it asks to have imported, and the store's backend."""
    backend = _BACKENDS.get(store_uri.partition(":")[0])
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads; see sdk.process
    with contextlib.suppress(Exception, SystemExit):  # see above
        if backend is not None:
            importlib.import_module(backend)
        import_at_once(load_component(component).preload)
