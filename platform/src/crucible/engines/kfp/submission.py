"""Submitting once: whatever breaks in between, a run id is one run of KFP, or none.

The order is plan, journal, KFP, claim. KFP has no key that makes a request idempotent, so a request
without an answer is looked for by its name, and if two took effect after all the later one is ended
before its first pod has written anything: pods of a run that is not claimed wait.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from crucible.engines.kfp.api import KfpRun, PipelinesApi
from crucible.engines.kfp.ir import RUN_ID, Document
from crucible.errors import ClusterUnavailable, UserError
from crucible.journal import Journal
from crucible.journal.journal import plan_key
from crucible.plan.model import Plan
from crucible.plan.serialise import plan_to_json
from crucible.sdk.retry import Backoff

logger = logging.getLogger(__name__)

_BACKOFF = Backoff(limit=5, first_seconds=2.0, factor=2.0, max_seconds=30.0)


@dataclass(frozen=True)
class Submission:
    """One run of KFP to be: a first submission, or one that goes on with an earlier run."""

    run_id: str
    generation: int
    """1 for the first, then one more for each resume."""
    document: Document
    service_account: str
    root: str | None = None

    @property
    def name(self) -> str:
        """What KFP shows; unique for run and generation."""
        return self.run_id if self.generation == 1 else f"{self.run_id}-resume-{self.generation}"


def begin_run(journal: Journal, plan: Plan, **fields: object) -> bool:
    """Keep the plan and begin the journal; False if the run was begun before.

    Raises:
        UserError: the id belongs to a run of another plan.
    """
    begun = [event for event in journal.events() if event["type"] == "run.submitted"]
    if begun:
        if begun[0]["plan_digest"] != plan.digest:
            raise UserError(
                f"run id {journal.run_id} belongs to a run of another plan. Leave --run-id out, or "
                "choose a new one."
            )
        return False
    document = json.dumps(plan_to_json(plan)).encode()
    journal.backend.write(plan_key(plan.digest), document)
    journal.append(
        "run.submitted",
        run_id=journal.run_id,
        pipeline=plan.name,
        plan_digest=plan.digest,
        **fields,
    )
    return True


def submit(
    api: PipelinesApi,
    journal: Journal,
    submission: Submission,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> KfpRun:
    """The run of KFP for ``submission``: the one there is, or a new one; claimed in the journal.

    Raises:
        UserError, ClusterRefused: KFP refuses it.
        ClusterUnavailable: no answer. Submitting again under the same id goes on from here.
    """
    experiment_id = api.experiment_id(submission.document.name)
    created = _adopt(api, submission) or _create(api, submission, experiment_id, sleep)
    run = _one_of(api, submission, created)
    journal.claim(run.id, generation=submission.generation, name=submission.name)
    return run


def _create(
    api: PipelinesApi,
    submission: Submission,
    experiment_id: str,
    sleep: Callable[[float], None],
) -> KfpRun:
    document = submission.document
    tries = 1
    while True:
        try:
            return api.create_run(
                submission.name,
                pipeline=document.pipeline(),
                platform=document.platform() if document.kubernetes else None,
                parameters={RUN_ID: submission.run_id},
                experiment_id=experiment_id,
                root=submission.root,
                service_account=submission.service_account,
            )
        except ClusterUnavailable as error:
            if tries > _BACKOFF.limit:
                raise
            delay_seconds = _BACKOFF.delay_seconds(tries, random.Random())
            logger.warning("%s Looking again in %.0f s.", error, delay_seconds)
            sleep(delay_seconds)
        found = _adopt(api, submission)
        if found is not None:
            return found
        tries += 1


def _adopt(api: PipelinesApi, submission: Submission) -> KfpRun | None:
    """The run that an earlier request made, if its answer was lost or its sender was killed."""
    found = api.find_runs(submission.name)
    return found[0] if found else None


def _one_of(api: PipelinesApi, submission: Submission, created: KfpRun) -> KfpRun:
    """The first of the runs of that name; later ones are ended."""
    first, *others = api.find_runs(submission.name) or [created]
    for other in others:
        if not other.is_final:
            logger.warning("KFP made %s twice: ending the second, %s", submission.name, other.id)
            api.terminate(other.id)
    return first
