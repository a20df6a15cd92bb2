"""The step process: from an ExecutorInput to committed outputs, or to one clear failure.

The order is that of "Life of a step" in the architecture page. What has been acknowledged is the
executor output: it is written when every output is in the store, and from then on no signal and no
fault of what is left (cache entry, tidying up) makes the step fail.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import crucible
from crucible import logs
from crucible.artifacts import open_store
from crucible.artifacts.cache import CacheEntry
from crucible.artifacts.manifest import ArtifactRef
from crucible.errors import CrucibleError, TemporaryError, UserError
from crucible.sdk.binding import OutputDrafts, bind_inputs
from crucible.sdk.catalogue import load_component
from crucible.sdk.checkpoint import FolderCheckpoints
from crucible.sdk.component import Component, ComponentConfig
from crucible.sdk.context import Context
from crucible.sdk.events import EventWriter
from crucible.sdk.executor import (
    CACHED_FROM_KEY,
    DIGEST_KEY,
    TYPE_KEY,
    VARIANT_KEY,
    ExecutorInput,
    RuntimeArtifact,
    write_executor_output,
)
from crucible.sdk.failure import FILE_NAME, failure_of
from crucible.sdk.fingerprint import CODE_PART, code_digest
from crucible.sdk.pod.request import PodRequest
from crucible.sdk.process import (
    Terminated,
    ignore_signals,
    import_at_once,
    limit_threads,
    scratch_folder,
    unwinding_on_signals,
)
from crucible.sdk.ranks import ALONE, FollowingCheckpoints, Ranks, Unheard
from crucible.sdk.retry import Backoff
from crucible.sdk.store_checkpoint import STORE_CHECKPOINTS, StoreCheckpoints
from crucible.sdk.validation import validate_config, with_metric_refs
from crucible.settings import Settings

if TYPE_CHECKING:
    from crucible.artifacts.store import Store
    from crucible.sdk.binding import BoundInputs

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one step as the command line says; returns the exit code 0, 1, 2, 75 or 128 + signal."""
    parser = argparse.ArgumentParser(prog="python -m crucible.step", description=__doc__)
    parser.add_argument("component", help="catalogue name or package.module:Class")
    parser.add_argument(
        "--executor-input", required=True, help="KFP v2's ExecutorInput as JSON, or @FILE with it"
    )
    arguments = parser.parse_args(argv)
    logs.configure(form="json" if os.environ.get("CRUCIBLE_LOG_FORMAT") == "json" else "text")
    try:
        text = _text(arguments.executor_input)
        pod_request = PodRequest.parse(text)
        if pod_request is not None:
            from crucible.sdk.pod.main import run_pod

            return run_pod(pod_request)
        request = ExecutorInput.parse(text)
    except UserError as error:
        logger.error("%s", error)
        return error.exit_code
    return run_step(arguments.component, request)


def _text(argument: str) -> str:
    if not argument.startswith("@"):
        return argument
    try:
        return Path(argument[1:]).read_text()
    except OSError as error:
        raise UserError(f"--executor-input {argument}: {error.strerror}.") from error


@dataclass(frozen=True)
class Places:
    """Where a step finds and leaves things.

    What the environment does not name stands beside the executor output, but for the store (the
    installation's) and scratch (the system's).
    """

    store_uri: str
    events: Path
    checkpoints: Path | None
    """A folder; None: in the artifact store, where a pod's successor finds them."""
    scratch_parent: Path | None
    failure: Path

    @classmethod
    def of(cls, request: ExecutorInput, environ: Mapping[str, str]) -> Places:
        beside = request.output_file.parent
        checkpoints = environ.get("CRUCIBLE_CHECKPOINTS")
        return cls(
            store_uri=environ.get("CRUCIBLE_STORE") or Settings.load(environ).store_uri,
            events=Path(environ.get("CRUCIBLE_EVENTS") or beside / "events.jsonl"),
            checkpoints=None
            if checkpoints == STORE_CHECKPOINTS
            else Path(checkpoints or beside / "checkpoints"),
            scratch_parent=Path(environ["CRUCIBLE_SCRATCH"])
            if environ.get("CRUCIBLE_SCRATCH")
            else None,
            failure=beside / FILE_NAME,
        )


def run_step(component: str, request: ExecutorInput, ranks: Ranks = ALONE) -> int:
    """Run ``component`` in this process and return its exit code; never raises.

    A failure is logged once and written as ``failure.json`` beside the executor output. Of several
    ranks only the first stores outputs and writes the executor output.
    """
    places = Places.of(request, os.environ)
    with unwinding_on_signals():
        try:
            places.failure.parent.mkdir(parents=True, exist_ok=True)
            for stale in (places.failure, request.output_file):
                stale.unlink(missing_ok=True)
            _run_with_retries(component, request, places, ranks)
        except BaseException as error:
            ignore_signals()  # a second one must not keep the reason from being written
            if request.output_file.exists():
                logger.warning("the step is done, but not tidied up", exc_info=error)
                return 0
            return _fail(error, places.failure)
    return 0


def _fail(error: BaseException, path: Path) -> int:
    failure = failure_of(error)
    expected = isinstance(error, (UserError, Terminated))
    logger.error(
        "%s: %s %s",
        failure.cause,
        failure.message,
        failure.fix,
        exc_info=None if expected else error,
    )
    try:
        failure.write(path)
    except OSError as fault:
        logger.error("the failure could not be written to %s: %s", path, fault)
    return failure.exit_code


def _run_with_retries(component: str, request: ExecutorInput, places: Places, ranks: Ranks) -> None:
    backoff = Backoff.from_environ(os.environ)
    for tries in itertools.count(1):
        try:
            attempt = request.step.attempt + tries - 1
            _run_attempt(component, request, places, ranks, attempt=attempt)
            return
        except TemporaryError as error:
            if tries > backoff.limit:
                raise
            delay_seconds = backoff.delay_seconds(tries, random.Random())
            logger.warning("try %d failed: %s. Next in %.1f s.", tries, error, delay_seconds)
            time.sleep(delay_seconds)


def _run_attempt(
    component: str, request: ExecutorInput, places: Places, ranks: Ranks, *, attempt: int
) -> None:
    step = request.step
    threads = limit_threads(step.cpus)  # before the component's module can import torch
    cls = load_component(component)
    store = open_store(places.store_uri)
    if cls.cacheable and deliver_from_cache(request, store):
        return
    inputs, config = _prepare(cls, request)
    logger.info(
        "crucible %s, %s version %s, step %s of run %s, attempt %d",
        *(crucible.__version__, cls.name, cls.version, step.step_id, step.run_id, attempt),
    )
    logger.info("config %s", config.model_dump_json())
    logger.info(
        "%d threads for %g cpus, seed %d, store %s", threads, step.cpus, step.seed, store.uri
    )
    _work(_Work(cls, request, places, store, inputs, config, attempt, ranks))


@dataclass(frozen=True)
class _Work:
    """One attempt that is ready to run."""

    cls: type[Component]
    request: ExecutorInput
    places: Places
    store: Store
    inputs: BoundInputs
    config: ComponentConfig
    attempt: int
    ranks: Ranks


def _work(work: _Work) -> None:
    """Call ``run``, commit what it wrote, tell the engine, tidy up."""
    cls, step, store = work.cls, work.request.step, work.store
    producer = {"component": cls.name, "version": cls.version, "fingerprint": step.fingerprint}
    with (
        scratch_folder(work.places.scratch_parent) as scratch_dir,
        contextlib.closing(EventWriter(work.places.events)) as events,
        contextlib.closing(_checkpoints(work, scratch_dir)) as checkpoints,
        contextlib.closing(OutputDrafts(work.inputs, work.request, store, scratch_dir)) as drafts,
    ):
        outputs = drafts.open()
        is_main = work.ranks.is_main
        context = Context(
            run_id=step.run_id,
            step_id=step.step_id,
            attempt=work.attempt,
            seed=step.seed,
            fingerprint=step.fingerprint,
            scratch_dir=scratch_dir,
            cpus=step.cpus,
            checkpoint=checkpoints if is_main else FollowingCheckpoints(checkpoints, scratch_dir),
            progress=events if is_main else Unheard(),
            tracking=events if is_main else Unheard(),
            rank=work.ranks.rank,
            world_size=work.ranks.world_size,
        )
        import_at_once(cls.preload)
        cls().run(work.inputs.open(store, scratch_dir), work.config, outputs, context)
        if not is_main:
            return
        refs = drafts.commit(producer)
        deliver(work.request, refs)
        _enter_into_cache(cls, work.request, store, refs)
        checkpoints.clear()


def _checkpoints(work: _Work, scratch_dir: Path) -> FolderCheckpoints | StoreCheckpoints:
    if work.places.checkpoints is not None:
        return FolderCheckpoints(work.places.checkpoints)
    step = work.request.step
    return StoreCheckpoints(
        work.store.backend,
        fingerprint=step.fingerprint,
        run_id=step.run_id,
        scratch_dir=scratch_dir,
    )


def _prepare(cls: type[Component], request: ExecutorInput) -> tuple[BoundInputs, ComponentConfig]:
    """Inputs and config, checked together so that one failure names everything."""
    where = f"steps.{request.step.step_id}.with"
    inputs = bind_inputs(cls, request, where=where)
    problems = list(inputs.problems)
    try:
        values = with_metric_refs(request.config, request.step.metric_refs)
        config = validate_config(cls, values, where=where)
    except UserError as error:
        problems += error.problems
    if problems:
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise UserError(f"step {request.step.step_id} cannot run:\n{lines}", problems)
    return inputs, config


def deliver_from_cache(request: ExecutorInput, store: Store) -> bool:
    """Write the outputs of an earlier run of this fingerprint; False if there is none."""
    if not request.step.cache:
        return False
    entry = store.cache_get(request.step.fingerprint)
    if entry is None or not entry.outputs.keys() <= request.outputs.keys():
        return False
    refs = {
        name: ArtifactRef.of(store.manifest(digest), store.uri)
        for name, digest in entry.outputs.items()
    }
    name = request.step.component or request.step.step_id
    logger.info("%s was run before by run %s: its outputs are used", name, entry.run_id)
    deliver(request, refs, cached_from=entry.run_id)
    return True


def deliver(
    request: ExecutorInput, refs: Mapping[str, ArtifactRef], *, cached_from: str = ""
) -> None:
    """Write references, then the executor output: from here on the step has succeeded."""
    written: dict[str, RuntimeArtifact] = {}
    for name, ref in refs.items():
        place = request.outputs[name]
        ref.write(place.path)
        metadata = dict(ref.manifest.metadata) | {
            DIGEST_KEY: ref.digest,
            TYPE_KEY: ref.manifest.type,
            VARIANT_KEY: ref.manifest.variant,
        }
        if cached_from:
            metadata[CACHED_FROM_KEY] = cached_from
        written[name] = RuntimeArtifact(place.name, place.uri, place.schema_title, metadata)
    ignore_signals()
    write_executor_output(request.output_file, written)
    digests = json.dumps({name: ref.digest for name, ref in refs.items()})
    logger.info("done: outputs %s", digests)


def _enter_into_cache(
    cls: type[Component], request: ExecutorInput, store: Store, refs: Mapping[str, ArtifactRef]
) -> None:
    if not cls.cacheable:
        return
    entry = CacheEntry(
        outputs={name: ref.digest for name, ref in refs.items()},
        run_id=request.step.run_id,
        parts=dict(request.step.fingerprint_parts),
    )
    planned_code = request.step.fingerprint_parts.get(CODE_PART)
    try:
        if planned_code is None or planned_code == code_digest(cls):
            store.cache_put(request.step.fingerprint, entry)
        else:
            logger.warning(
                "the code of %s was changed after the run was planned: the outputs, which may come "
                "from either code, are not entered into the cache",
                cls.name,
            )
    except (CrucibleError, OSError) as error:
        logger.warning("the step is done but not in the cache, so it will run again: %s", error)
