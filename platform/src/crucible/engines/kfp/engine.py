"""The KFP engine: a run is a run of KFP and a journal in the store, and nothing on this machine.

Any machine with the same context sees the same runs. Nothing here runs a step or watches over one:
what must go on when this process ends goes on in the cluster.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping

from crucible.artifacts.store import Store
from crucible.engines.explain import Explanation, explain
from crucible.engines.foreign import CompiledPipeline
from crucible.engines.kfp.api import KfpRun
from crucible.engines.kfp.compile import Options, compile_plan
from crucible.engines.kfp.diagnosis import diagnose, witnesses_of
from crucible.engines.kfp.document import compiled
from crucible.engines.kfp.following import RunFollower
from crucible.engines.kfp.ir import RUN_ID
from crucible.engines.kfp.logs import step_lines, task_lines
from crucible.engines.kfp.resuming import remainder
from crucible.engines.kfp.runstate import foreign_state
from crucible.engines.kfp.session import Session
from crucible.engines.kfp.submission import Submission, begin_run, submit
from crucible.engines.local.imports import bring
from crucible.engines.local.launch import new_run_id
from crucible.engines.local.run_dir import RunDir
from crucible.engines.pages import write_last_page
from crucible.engines.state import RunState, RunStatus
from crucible.errors import ArtifactError, CrucibleError, RunNotFound, UserError
from crucible.journal import Journal
from crucible.plan.model import Import, MetricRef, Plan
from crucible.plan.serialise import plan_from_json
from crucible.sdk.pod.request import Metric
from crucible.sdk.pod.sources import read_metrics
from crucible.settings import Settings

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_MAX_LOOK_SECONDS = 10.0
"""Between two looks at a run in which nothing happens."""
_CANCEL_PATIENCE_SECONDS = 180.0
_DIAGNOSE_SECONDS = 10.0
"""Between two looks at the pods of a run that is watched."""
_MAX_LISTED = 100


class KfpEngine:
    """Implements `crucible.engines.base.Engine` on the cluster of a context."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def images(self) -> Mapping[str, str]:
        """The context's images."""
        return {str(name): image for name, image in self._session.context.images.items()}

    @property
    def store(self) -> Store:
        """The context's artifact store."""
        return self._session.store

    def submit(self, plan: Plan, *, run_id: str | None = None) -> str:
        """Start ``plan`` and return its run id once KFP has it.

        Submitting a plan again under the same id changes nothing, or goes on with a submission
        that was interrupted.

        Raises:
            UserError: the cluster cannot run it, KFP refuses it, or the id is another plan's.
            ClusterUnavailable, StoreUnavailable: no answer; submit again under the same id.
        """
        context, store = self._session.context, self._session.store
        compiled(plan, context)  # before anything is spent
        run_id = new_run_id(plan.name) if run_id is None else run_id
        journal = Journal(store.backend, run_id)
        imports = self._bring_imports(plan, store)
        begin_run(journal, plan, working_dir=os.getcwd(), context=context.metadata.name)
        for uri, digest in imports.items():
            journal.append("import.done", uri=uri, digest=digest)
        if not journal.claims():
            self._start(journal, plan, Options(imports=imports), generation=1)
        return run_id

    def submit_compiled(self, compiled: CompiledPipeline, *, name: str | None = None) -> str:
        """Start a pipeline that somebody else compiled; returns KFP's id of the run.

        Submitting under the name of a run that is there changes nothing.

        Raises:
            UserError: KFP refuses it.
            ClusterUnavailable: no answer; submit again under the same name.
        """
        api, context = self._session.api, self._session.context
        name = name or new_run_id(compiled.name)
        found = api.find_runs(name)
        if found:
            return found[0].id
        made = api.create_run(
            name,
            pipeline=compiled.pipeline,
            platform=compiled.platform,
            parameters=compiled.arguments,
            experiment_id=api.experiment_id(compiled.name),
            root=context.pipelines.root,
            service_account=context.kubernetes.service_account,
        )
        return made.id

    def state(self, run_id: str) -> RunState:
        """Where the run is."""
        found = self._find(run_id)
        if isinstance(found, KfpRun):
            return foreign_state(found)
        return self._looked(found, diagnosed=True)

    def states(self, limit: int | None = None) -> list[RunState]:
        """The newest runs, newest first; runs of KFP that are not ours included."""
        states: dict[str, RunState] = {}
        for kfp in self._session.api.runs(limit=_MAX_LISTED):
            run_id = str(kfp.parameters.get(RUN_ID) or "")
            if run_id in states:
                continue  # an earlier generation
            follower = self._follower(run_id) if run_id else None
            state = follower.look() if follower is not None else foreign_state(kfp)
            states.setdefault(state.run_id, state)
            if limit is not None and len(states) >= limit:
                break
        return list(states.values())

    def plan_of(self, run_id: str) -> Plan:
        """The plan as it was submitted."""
        return self._ours(run_id).plan

    def last_plan(self, pipeline: str) -> tuple[str, Plan] | None:
        """Run id and plan of the pipeline's newest run."""
        for kfp in self._session.api.runs(limit=_MAX_LISTED):
            run_id = str(kfp.parameters.get(RUN_ID) or "")
            if run_id and kfp.pipeline_spec.get("pipelineInfo", {}).get("name") == pipeline:
                follower = self._follower(run_id)
                if follower is not None:
                    return run_id, follower.plan
        return None

    def watch(self, run_id: str) -> Iterator[RunState]:
        """A state after each change, ending with a final one."""
        found = self._find(run_id)
        shown: RunState | None = None
        pause_seconds, diagnosed_at = _LOOK_SECONDS, 0.0
        while True:
            if isinstance(found, RunFollower):
                due = time.monotonic() - diagnosed_at > _DIAGNOSE_SECONDS
                state = self._looked(found, diagnosed=due)
                diagnosed_at = time.monotonic() if due else diagnosed_at
            else:
                state = self.state(found.id)
            if state != shown:
                shown, pause_seconds = dataclasses.replace(state), _LOOK_SECONDS
                yield state
            if state.status.is_final:
                return
            time.sleep(pause_seconds)
            pause_seconds = min(_MAX_LOOK_SECONDS, pause_seconds * 1.25)

    def logs(self, run_id: str, step_id: str, *, follow: bool = False) -> Iterator[str]:
        """Lines of the newest attempt's log, without line ends."""
        found = self._find(run_id)
        if isinstance(found, KfpRun):
            return task_lines(self._session, found.id, step_id, follow=follow)
        return step_lines(self._session, found, step_id, follow=follow)

    def explain(self, run_id: str) -> Explanation:
        """Why the run is where it is."""
        return explain(self.state(run_id))

    def cancel(self, run_id: str) -> RunState:
        """End the run; returns when KFP says that it has ended."""
        kfp = self._newest_kfp(run_id)
        if not kfp.is_final:
            self._session.api.terminate(kfp.id)
        deadline = time.monotonic() + _CANCEL_PATIENCE_SECONDS
        while not self._session.api.get_run(kfp.id).is_final:
            if time.monotonic() > deadline:
                raise CrucibleError(
                    f"run {run_id} was asked to end and has not after "
                    f"{_CANCEL_PATIENCE_SECONDS:.0f} s. See its pods: platformctl why {run_id}."
                )
            time.sleep(_LOOK_SECONDS)
        return self.state(run_id)

    def retry(self, run_id: str) -> str:
        """Run the failed tasks again in place, as the button in KFP's pages does.

        Raises:
            UserError: the run is running or has succeeded.
        """
        state, kfp = self.state(run_id), self._newest_kfp(run_id)
        if state.status not in (RunStatus.FAILED, RunStatus.CANCELLED):
            raise UserError(f"run {state.run_id} is {state.status}: there is nothing to retry.")
        found = self._find(run_id)
        if isinstance(found, RunFollower):
            again = [s.step_id for s in state.steps.values() if not s.status.has_outputs]
            found.journal.append("run.resumed", reset=again, fresh=[])
        self._session.api.retry(kfp.id)
        return state.run_id

    def resume(self, run_id: str, *, from_step: str | None = None) -> str:
        """Go on with an ended run as a new run of KFP under the same id; done steps are kept.

        With ``from_step`` that step and all that depend on it run again, without the cache.

        Raises:
            UserError: the run is running, has succeeded, has no such step, or is not ours.
            ClusterUnavailable, StoreUnavailable: no answer.
        """
        follower = self._ours(run_id)
        plan, journal, store = follower.plan, follower.journal, self._session.store
        state = follower.look()
        left = remainder(
            plan,
            state,
            from_step=from_step,
            is_whole=lambda digests: _are_whole(digests, store),
            read_metric=lambda ref: _metric(ref, state, store),
        )
        imports = self._bring_imports(plan, store)
        journal.append("run.resumed", reset=list(left.reset), fresh=sorted(left.fresh))
        for uri, digest in imports.items():
            journal.append("import.done", uri=uri, digest=digest)
        for step_id, reason in left.skipped.items():
            journal.append(
                "step.ended", step=step_id, attempt=0, status="skipped", reason=reason, outputs={}
            )
        options = Options(done=left.done, fresh=left.fresh, imports=imports)
        self._start(journal, plan, options, generation=len(journal.claims()) + 1)
        return journal.run_id

    def _looked(self, follower: RunFollower, *, diagnosed: bool) -> RunState:
        """The state of a run of ours, with what its pods tell if that is wanted or it has ended."""
        state, kfp = follower.look(), follower.kfp
        if kfp is not None and (diagnosed or state.status.is_final):
            session, kfp_run_id = self._session, kfp.id
            diagnose(
                state,
                lambda: witnesses_of(
                    session.connection, session.context.kubernetes.namespace, kfp_run_id
                ),
                follower.plan,
                follower.journal.events(),
                session.placement,
            )
        if state.status.is_final:
            self._show_report(follower, state)
        return state

    def _show_report(self, follower: RunFollower, state: RunState) -> None:
        """Copy the last report to this machine, where a person opens it."""
        run_dir = RunDir(Settings.load().runs_dir / state.run_id)
        try:
            page = write_last_page(run_dir, follower.plan, state, self._session.store)
        except (CrucibleError, OSError) as error:
            state.warnings.append(f"the report is not on this machine: {error}")
        else:
            state.report = None if page is None else str(page)

    def _start(self, journal: Journal, plan: Plan, options: Options, *, generation: int) -> None:
        context = self._session.context
        wide = any(step.resources.nodes > 1 for step in plan.steps)
        kubernetes = context.kubernetes
        account = kubernetes.launcher_service_account if wide else kubernetes.service_account
        submission = Submission(
            run_id=journal.run_id,
            generation=generation,
            document=compile_plan(plan, context, options),
            service_account=account,
            root=context.pipelines.root,
        )
        kfp = submit(self._session.api, journal, submission)
        if context.pipelines.ui_url:
            logger.info("%s/#/runs/details/%s", context.pipelines.ui_url.rstrip("/"), kfp.id)

    def _bring_imports(self, plan: Plan, store: Store) -> dict[str, str]:
        """Bring what the plan takes from outside into the store; digest by URI."""
        found: dict[str, str] = {}
        for step in plan.all_steps:
            for slot in step.inputs:
                for source in slot.sources:
                    if isinstance(source, Import) and source.uri not in found:
                        found[source.uri] = bring(source, slot.type, store).digest
        return found

    def _ours(self, run_id: str) -> RunFollower:
        found = self._find(run_id)
        if isinstance(found, KfpRun):
            raise UserError(
                f"run {found.id} ({found.name}) was not submitted from a pipeline file: there is "
                "no plan to go on with. Retry it, or submit it again."
            )
        return found

    def _newest_kfp(self, run_id: str) -> KfpRun:
        found = self._find(run_id)
        if isinstance(found, KfpRun):
            return found
        found.look()
        if found.kfp is None:
            raise RunNotFound(
                f"Kubeflow Pipelines does not know run {run_id} any more. Submit it again."
            )
        return found.kfp

    def _find(self, run_id: str) -> RunFollower | KfpRun:
        """The run of that id or beginning: ours by its journal, another by KFP's id or name."""
        follower = self._follower(run_id)
        if follower is not None:
            return follower
        runs = [
            kfp
            for kfp in self._session.api.runs(limit=_MAX_LISTED)
            if kfp.id.startswith(run_id) or kfp.name.startswith(run_id)
        ]
        names = {str(kfp.parameters.get(RUN_ID) or kfp.id) for kfp in runs}
        if len(names) > 1:
            listed = ", ".join(sorted(names)[:5])
            raise RunNotFound(f"{run_id!r} is the beginning of {len(names)} run ids: {listed}.")
        if not names:
            context = self._session.context.metadata.name
            raise RunNotFound(f"no run {run_id!r} in context {context}. See platformctl runs.")
        return self._follower(names.pop()) or runs[0]

    def _follower(self, run_id: str) -> RunFollower | None:
        """The run of that id if its journal is here."""
        journal = Journal(self._session.store.backend, run_id)
        digest = next((e["plan_digest"] for e in journal.events() if "plan_digest" in e), None)
        stored = journal.read_stored_plan(digest) if digest else None
        if stored is None:
            return None
        return RunFollower(self._session.api, journal, plan_from_json(json.loads(stored)))


def _are_whole(digests: Collection[str], store: Store) -> bool:
    try:
        manifests = [store.manifest(digest) for digest in digests]
    except ArtifactError:
        return False
    sizes = {file.sha256: file.size_bytes for m in manifests for file in m.files}
    return store.backend.has_blobs(sizes)


def _metric(ref: MetricRef, state: RunState, store: Store) -> float:
    outputs = {ref.step_id: state.steps[ref.step_id].outputs}
    wanted = {"metric": Metric(ref.step_id, ref.output, ref.metric)}
    return read_metrics(wanted, outputs, store)["metric"]
