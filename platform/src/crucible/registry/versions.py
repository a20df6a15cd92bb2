"""Registered versions in MLflow: reading them, creating one, tagging, pointing aliases.

No rule is decided here (see `crucible.registry.registry`); this is MLflow's client with our names,
types and errors.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from crucible.artifacts.manifest import ArtifactRef
from crucible.errors import RegistryError, UserError
from crucible.registry import version as v
from crucible.registry.gate import Decision
from crucible.registry.version import Version, decision_text
from crucible.sdk.suggestion import did_you_mean
from crucible.settings import Settings
from crucible.tracking.client import connect, mlflow_errors

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][\w.\-]{0,199}\Z", re.ASCII)
_MAX_DESCRIPTION_CHARS: Final = 5000


@dataclass(frozen=True)
class Candidate:
    """A model to register, with what its version shall link to."""

    name: str
    """Registered model, e.g. ``quickstart-vlm``."""
    model: ArtifactRef
    run_id: str
    mlflow_run_id: str
    pipeline: str
    plan_digest: str
    evaluation_step: str
    """The step whose metrics the gate judged."""
    metrics_digest: str
    predictions_digest: str | None = None
    data_digests: Mapping[str, str] = field(default_factory=dict)
    """Every data set that the model comes from, by ``step.output`` or import."""
    git_commit: str | None = None
    git_dirty: bool = False


class Versions:
    """All registered versions of one MLflow. Connects when first asked something."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def client(self) -> MlflowClient:
        return connect(self._settings)

    def names(self) -> list[str]:
        """All registered models, sorted."""
        found: list[str] = []
        token: str | None = None
        with mlflow_errors("list registered models", RegistryError):
            while True:
                page = self.client.search_registered_models(page_token=token)
                found += [model.name for model in page]
                token = page.token
                if not token:
                    return sorted(found)

    def of(self, name: str) -> list[Version]:
        """All versions of a model, newest first.

        Raises:
            UserError: no such model.
        """
        aliases = self.aliases(name)
        found: list[Version] = []
        token: str | None = None
        with mlflow_errors(f"list versions of {name}", RegistryError):
            while True:
                page = self.client.search_model_versions(f"name='{name}'", page_token=token)
                found += [Version.from_mlflow(each, aliases) for each in page]
                token = page.token
                if not token:
                    return sorted(found, key=lambda each: each.version, reverse=True)

    def with_digest(self, name: str, digest: str, aliases: Mapping[str, int]) -> Version | None:
        """The version of ``name`` that holds the artifact ``digest``."""
        wanted = f"name='{name}' and tags.`{v.TAG_DIGEST}` = '{digest}'"
        with mlflow_errors(f"find the version of {digest} in {name}", RegistryError):
            page = self.client.search_model_versions(wanted, max_results=1)
            return Version.from_mlflow(page[0], aliases) if page else None

    def get(self, name: str, number: int, aliases: Mapping[str, int] | None = None) -> Version:
        """One version; give ``aliases`` if they are at hand.

        Raises:
            UserError: no such model or version.
        """
        from mlflow.exceptions import MlflowException

        aliases = self.aliases(name) if aliases is None else aliases
        with mlflow_errors(f"read version {number} of {name}", RegistryError):
            try:
                return Version.from_mlflow(
                    self.client.get_model_version(name, str(number)), aliases
                )
            except MlflowException as cause:
                if cause.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise UserError(
                    f"{name}: no version {number}. See platformctl models list {name}."
                ) from cause

    def aliases(self, name: str) -> dict[str, int]:
        """Version number by alias.

        Raises:
            UserError: no such model.
        """
        aliases = self.aliases_if_any(name)
        if aliases is None:
            raise UserError(f"no registered model {name!r}. {did_you_mean(name, self.names())}")
        return aliases

    def aliases_if_any(self, name: str) -> dict[str, int] | None:
        """As `aliases`; None if there is no such model."""
        from mlflow.exceptions import MlflowException

        if not _MODEL_NAME.match(name):
            raise UserError(f"registered model {name!r}: use letters, digits, '.', '_' and '-'.")
        with mlflow_errors(f"read registered model {name}", RegistryError):
            try:
                aliases = self.client.get_registered_model(name).aliases
            except MlflowException as cause:
                if cause.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None
        return {alias: int(number) for alias, number in aliases.items()}

    def create(self, candidate: Candidate, decision: Decision, champion: int | None) -> Version:
        """A new version; the registered model too if this is its first."""
        from crucible.registry.flavour import write_model_folder

        name, run_id = candidate.name, candidate.mlflow_run_id
        with mlflow_errors(f"register {name}", RegistryError):
            if self.aliases_if_any(name) is None:
                self.client.create_registered_model(name)
            # The folder lies in the run's artifacts: MLflow servers accept no other local source.
            with tempfile.TemporaryDirectory() as folder:
                write_model_folder(Path(folder), candidate.model, run_id)
                self.client.log_artifacts(run_id, folder, "model")
            artifacts_uri = self.client.get_run(run_id).info.artifact_uri
            made = self.client.create_model_version(
                name,
                source=f"{artifacts_uri.rstrip('/')}/model",
                run_id=run_id,
                tags=_lineage_tags(candidate) | _decision_tags(decision, champion),
                description=_description(decision),
            )
        return self.get(name, int(made.version))

    def store_decision(self, found: Version, decision: Decision, champion: int | None) -> Version:
        """Replace the decision on a version: tags and description."""
        self.untag(found, v.TAG_FORCED)
        self.tag(found, _decision_tags(decision, champion))
        with mlflow_errors(f"describe {found.uri}", RegistryError):
            self.client.update_model_version(
                found.name, str(found.version), description=_description(decision)
            )
        return self.get(found.name, found.version)

    def tag(self, found: Version, tags: Mapping[str, str]) -> None:
        with mlflow_errors(f"tag {found.uri}", RegistryError):
            for key, value in tags.items():
                self.client.set_model_version_tag(found.name, str(found.version), key, value)

    def untag(self, found: Version, *keys: str) -> None:
        """Remove those of ``keys`` that the version has."""
        with mlflow_errors(f"untag {found.uri}", RegistryError):
            for key in found.tags.keys() & set(keys):
                self.client.delete_model_version_tag(found.name, str(found.version), key)

    def set_alias(self, name: str, alias: str, number: int) -> None:
        with mlflow_errors(f"move {name}@{alias}", RegistryError):
            self.client.set_registered_model_alias(name, alias, str(number))


def _lineage_tags(candidate: Candidate) -> dict[str, str]:
    from crucible.registry.flavour import weights_sha256

    model = candidate.model
    tags = {
        v.TAG_DIGEST: model.digest,
        v.TAG_STORE: model.store,
        v.TAG_VARIANT: model.manifest.variant,
        v.TAG_EVALUATION: candidate.evaluation_step,
        v.TAG_METRICS: candidate.metrics_digest,
        v.TAG_DATA: json.dumps(dict(sorted(candidate.data_digests.items()))),
        v.TAG_PARENTS: json.dumps(model.manifest.parents),
        v.TAG_RUN: candidate.run_id,
        v.TAG_PIPELINE: candidate.pipeline,
        v.TAG_PLAN: candidate.plan_digest,
        v.TAG_MLFLOW_RUN: candidate.mlflow_run_id,
    }
    weights = weights_sha256(model)
    if weights:
        tags[v.TAG_WEIGHTS] = weights
    if candidate.predictions_digest:
        tags[v.TAG_PREDICTIONS] = candidate.predictions_digest
    if candidate.git_commit:
        tags[v.TAG_GIT] = candidate.git_commit
        tags[v.TAG_GIT_DIRTY] = str(candidate.git_dirty).lower()
    return tags


def _decision_tags(decision: Decision, champion: int | None) -> dict[str, str]:
    return {
        v.TAG_STATUS: decision.status,
        v.TAG_DECISION: decision.to_json(),
        v.TAG_POLICY: decision.policy_sha256,
        v.TAG_CHAMPION: v.NO_CHAMPION if champion is None else str(champion),
    }


def _description(decision: Decision) -> str:
    text = decision_text(decision)
    if len(text) <= _MAX_DESCRIPTION_CHARS:
        return text
    note = f"\n… cut; every number is in the tag {v.TAG_DECISION}."
    return text[: _MAX_DESCRIPTION_CHARS - len(note)] + note
