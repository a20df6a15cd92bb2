"""Bringing what a plan takes from outside into the store: one process per import.

``main([RUN_DIR, URI])`` writes the reference that the steps read. The content must still be what
it was when the plan was made, since the fingerprints of the steps rest on it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from crucible import logs
from crucible.artifacts.manifest import ArtifactRef
from crucible.artifacts.store import Store, open_store
from crucible.artifacts.tree import listing_digest, tree_digest
from crucible.engines.local.run_dir import RunDir
from crucible.errors import CrucibleError, UserError
from crucible.plan.model import Import, Plan
from crucible.sdk.failure import failure_of
from crucible.sdk.types import ArtifactType
from crucible.settings import Settings

logger = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Import one URI of a run's plan; returns the exit code."""
    logs.configure()
    run_dir, uri = RunDir(Path(argv[0])), argv[1]
    try:
        store = open_store(Settings.load().store_uri)
        wanted, kind = find_import(run_dir.read_plan(), uri)
        ref = bring(wanted, kind, store)
        store.lease(run_dir.run_id, [ref.digest])
        ref.write(run_dir.import_reference(uri))
    except (CrucibleError, OSError) as error:
        failure = failure_of(error)
        logger.error("%s %s", failure.message, failure.fix)
        failure.write(run_dir.import_failure(uri))
        return failure.exit_code
    return 0


def find_import(plan: Plan, uri: str) -> tuple[Import, ArtifactType]:
    """The import of that URI and the type that its consumer wants."""
    for step in plan.all_steps:
        for slot in step.inputs:
            for source in slot.sources:
                if isinstance(source, Import) and source.uri == uri:
                    return source, slot.type
    raise KeyError(uri)


def bring(wanted: Import, kind: ArtifactType, store: Store) -> ArtifactRef:
    """The reference of ``wanted``, its content in the store and as planned.

    Raises:
        UserError: the content is not what the plan was made with, or not of type ``kind``.
        ArtifactError: it is not in the store or cannot be put there.
    """
    if wanted.uri.startswith("file:"):
        path = Path(unquote(urlsplit(wanted.uri).path))
        if tree_digest(path) == wanted.identity:  # before gigabytes are copied
            ref = store.put_tree(path, type=kind.name, variant=kind.variant)
            if listing_digest(ref.manifest.files) == wanted.identity:
                return ref
        raise UserError(
            f"{wanted.uri} is no longer what it was when the plan was made. Submit the pipeline "
            "again, so that the plan sees it as it is."
        )
    manifest = store.manifest(wanted.identity)  # an alias may have moved: the plan's version counts
    found = ArtifactType(manifest.type, manifest.variant)
    if not kind.accepts(found):
        raise UserError(f"{wanted.uri} is a {found}; the step wants a {kind}. Name another one.")
    return ArtifactRef.of(manifest, store.uri)
