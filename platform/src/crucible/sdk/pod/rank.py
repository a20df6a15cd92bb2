"""``python -m crucible.sdk.pod.rank COMPONENT --executor-input JSON``: one rank of a step.

As `crucible.step`, but ``RANK`` and ``WORLD_SIZE`` say that several such processes run the step
together; ``MASTER_ADDR`` and ``MASTER_PORT`` say where they meet. `crucible.sdk.pod.node` starts
them in pods; torchrun does as well, for one who tries a component by hand.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from crucible import logs
from crucible.errors import UserError
from crucible.sdk.executor import ExecutorInput
from crucible.sdk.ranks import Ranks
from crucible.sdk.runner import run_step

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one rank; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m crucible.sdk.pod.rank", description=__doc__)
    parser.add_argument("component", help="catalogue name or package.module:Class")
    parser.add_argument("--executor-input", required=True, help="as of crucible.step")
    arguments = parser.parse_args(argv)
    logs.configure(form="json" if os.environ.get("CRUCIBLE_LOG_FORMAT") == "json" else "text")
    if os.environ.get("LOCAL_RANK", "0") != "0":
        logging.getLogger().setLevel(logging.WARNING)  # one process a node is enough to read
    try:
        text = arguments.executor_input
        request = ExecutorInput.parse(Path(text[1:]).read_text() if text[:1] == "@" else text)
        ranks = Ranks.from_environ(os.environ)
    except (UserError, OSError) as error:
        logger.error("%s", error)
        return UserError.exit_code
    return run_step(arguments.component, request, ranks)


if __name__ == "__main__":
    sys.exit(main())
