"""One pod of a run: what its parts share, and who the run is.

The run id that the command line chose names the journal. A pipeline that somebody cloned or
scheduled in KFP's pages carries the id of another run, so an id counts only if the journal knows
KFP's id of this very run; else the run goes under KFP's own id.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from crucible.artifacts.store import Store
from crucible.journal import Journal
from crucible.journal.journal import Event
from crucible.sdk.pod.request import PodRequest

logger = logging.getLogger(__name__)

CLAIM_PATIENCE_SECONDS = 30.0
"""The claim is written when KFP has answered the submission, seconds before the first pod runs."""
_LOOK_SECONDS = 2.0


@dataclass
class Pod:
    """The pod's work and its places."""

    request: PodRequest
    store: Store
    run_id: str
    scratch_dir: Path

    @cached_property
    def journal(self) -> Journal:
        return Journal(self.store.backend, self.run_id)

    @property
    def run_dir(self) -> Path:
        """The run's folder as the local engine lays it out, as far as this pod knows the run."""
        return self.scratch_dir / "run"

    def attempt_dir(self, step_id: str, attempt: int) -> Path:
        return self.run_dir / "steps" / step_id / str(attempt)

    def record(self, event: Event) -> None:
        """Note an event in the folder, for the relay to MLflow."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with (self.run_dir / "events.jsonl").open("ab") as stream:
            stream.write(json.dumps(event).encode() + b"\n")

    def write_plan(self) -> bool:
        """Put the run's plan into the folder; False if the store has none."""
        plan = self.journal.read_stored_plan(self.request.plan_digest)
        if plan is None:
            return False
        self.run_dir.mkdir(parents=True, exist_ok=True)
        (self.run_dir / "plan.json").write_bytes(plan)
        return True


def resolve_run_id(
    request: PodRequest, store: Store, sleep: Callable[[float], None] = time.sleep
) -> str:
    """The run's id: the one it was submitted under, if that is this run's.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    if not request.run_id:
        return request.kfp_run_id
    journal = Journal(store.backend, request.run_id)
    waited_seconds = 0.0
    while not journal.is_claimed_by(request.kfp_run_id):
        if Journal(store.backend, request.kfp_run_id).has_begun():
            return request.kfp_run_id  # an earlier pod of this copy has waited
        if waited_seconds >= CLAIM_PATIENCE_SECONDS:
            logger.warning(
                "run %s was submitted as another run of KFP: this one is a copy and goes under %s",
                *(request.run_id, request.kfp_run_id),
            )
            return request.kfp_run_id
        sleep(_LOOK_SECONDS)
        waited_seconds += _LOOK_SECONDS
    return request.run_id
