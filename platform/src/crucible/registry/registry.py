"""The model registry: versions in MLflow, weights by reference, aliases moved by the gate only.

MLflow itself lets anyone move an alias. Here every move is a compare-and-set under a lock of the
home folder, is refused without a passed gate, and is on record before it is made. Two homes that
share one MLflow server are not locked against each other: there a lost race is found by reading
back, not prevented.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from crucible.artifacts.store import Store, open_store
from crucible.errors import GateRefused, RegistryError, UserError
from crucible.registry import audit
from crucible.registry import version as v
from crucible.registry.evidence import read_answers, read_champion_answers, read_metrics
from crucible.registry.gate import Decision, GatePolicy, decide
from crucible.registry.version import Version
from crucible.registry.versions import Candidate, Versions
from crucible.sdk.suggestion import did_you_mean
from crucible.settings import Settings
from crucible.tracking.client import exclusive_lock

CHAMPION: Final = "champion"
PREVIOUS: Final = "previous"
CANDIDATE: Final = "candidate"

_ALIAS: Final = re.compile(r"(?!latest\Z|[vV]\d+\Z)[A-Za-z_][\w\-]{0,99}\Z", re.ASCII)
_MODEL_URI: Final = re.compile(r"models:/(?P<name>[^@/]+)(?:@(?P<alias>.+)|/(?P<number>\d+))\Z")


class Registry:
    """Registered models. Opens MLflow and the store when first asked something."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._versions = Versions(settings)

    @cached_property
    def store(self) -> Store:
        return open_store(self.settings.store_uri)

    def names(self) -> list[str]:
        """All registered models, sorted."""
        return self._versions.names()

    def versions(self, name: str) -> list[Version]:
        """All versions of a model, newest first.

        Raises:
            UserError: no such model.
        """
        return self._versions.of(name)

    def show(self, name: str, version: str | int = CHAMPION) -> Version:
        """One version by number or alias.

        Raises:
            UserError: no such model, version or alias.
        """
        wanted = str(version).removeprefix("@")
        if wanted.isdecimal():
            return self._versions.get(name, int(wanted))
        aliases = self._versions.aliases(name)
        if wanted not in aliases:
            raise UserError(
                f"{name}: no alias {wanted!r}. {did_you_mean(wanted, aliases)} "
                f"Versions: platformctl models list {name}."
            )
        return self._versions.get(name, aliases[wanted], aliases)

    def holder(self, name: str, alias: str = CHAMPION) -> Version | None:
        """The version that holds ``alias``; None if the model or the alias does not exist yet."""
        aliases = self._versions.aliases_if_any(name) or {}
        return self._versions.get(name, aliases[alias], aliases) if alias in aliases else None

    def find(self, name: str, digest: str) -> Version | None:
        """The version of ``name`` that holds the artifact ``digest``."""
        aliases = self._versions.aliases_if_any(name)
        return None if aliases is None else self._versions.with_digest(name, digest, aliases)

    def resolve(self, uri: str) -> str:
        """Manifest digest behind ``models:/NAME@alias`` or ``models:/NAME/3``.

        Raises:
            UserError: another form, or no such version.
        """
        match = _MODEL_URI.match(uri)
        if match is None:
            raise UserError(f"{uri}: not a model. Write models:/NAME@alias or models:/NAME/3.")
        found = self.show(match["name"], match["alias"] or match["number"])
        if found.digest is None:
            raise UserError(f"{uri}: version {found.version} was not registered by this platform.")
        return found.digest

    def digests(self) -> list[str]:
        """Every artifact that some version needs: what garbage collection must keep."""
        tags = (v.TAG_DIGEST, v.TAG_METRICS, v.TAG_PREDICTIONS)
        versions = [each for name in self.names() for each in self.versions(name)]
        return sorted({each.tags[tag] for each in versions for tag in tags if tag in each.tags})

    def pull(self, uri: str, folder: Path) -> str:
        """Copy the files of a version to a new ``folder``, digests verified; returns the digest.

        Raises:
            UserError: the folder exists and is not empty.
        """
        from crucible.registry.pull import pull_artifact

        digest = self.resolve(uri)
        pull_artifact(self.store, digest, folder)
        return digest

    def decide(
        self,
        policy: GatePolicy,
        metrics_digest: str,
        predictions_digest: str | None,
        holder: Version | None,
    ) -> Decision:
        """The gate's answer about stored metrics and predictions against the alias's holder."""
        champion = None
        if holder is not None:
            champion = read_champion_answers(self.store, holder.tags.get(v.TAG_PREDICTIONS))
        candidate = read_answers(self.store, predictions_digest) if predictions_digest else None
        return decide(policy, read_metrics(self.store, metrics_digest), candidate, champion)

    def register(self, candidate: Candidate, decision: Decision, against: int | None) -> Version:
        """The version of this artifact under this name: a new one, or the one that is there.

        A version that is there gets the new decision unless it holds an alias by an earlier one.

        Args:
            candidate: What to register.
            decision: What the gate said.
            against: The version that the gate compared with.
        """
        with self._locked():
            found = self.find(candidate.name, candidate.model.digest)
            if found is None:
                found = self._versions.create(candidate, decision, against)
                self._record("register", found, gate=decision.status, digest=found.digest)
            elif not any(map(_is_gated, found.aliases)):
                self._versions.store_decision(found, decision, against)
            self._versions.set_alias(found.name, CANDIDATE, found.version)
            return self._versions.get(found.name, found.version)

    def promote(
        self,
        name: str,
        version: str | int,
        alias: str = CHAMPION,
        *,
        force: bool = False,
        reason: str | None = None,
        expected: int | None = None,
    ) -> Version:
        """Move ``alias`` to ``version`` and return that version as it is then.

        The decision on the version must have been made against the present holder of the alias;
        if it was not, the gate decides again from the stored metrics and predictions.

        Args:
            name: Registered model.
            version: Number or alias.
            alias: What to move. Its last holder is kept under ``previous``.
            force: Move it against the gate; needs a reason, which is tagged and logged.
            reason: Why.
            expected: Refuse unless the alias is at this version (0: at none) when it is moved.

        Raises:
            GateRefused: the gate says no and ``force`` is not set.
            RegistryError: the alias is not where it was expected.
            UserError: unknown model, version or alias, or force without reason.
        """
        _check_alias(alias)
        if force and not (reason and reason.strip()):
            raise UserError("promote: force is set without a reason. Say why with --reason.")
        with self._locked():
            chosen = self.show(name, version)
            holder = self.holder(name, alias)
            held = holder.version if holder else 0
            if held == chosen.version:
                return chosen
            if expected is not None and expected != held:
                raise RegistryError(
                    f"{name}@{alias} is at version {held or None}, not {expected or None} any "
                    f"more. Promote version {chosen.version} again: the gate decides anew."
                )
            if alias != CANDIDATE:
                self._pass_gate(chosen, holder, reason if force else None)
            action = "force" if force else "promote"
            self._record(action, chosen, alias=alias, before=held or None, reason=reason)
            # In this order a crash in between leaves nothing that rollback would misread.
            if holder and alias != CANDIDATE:
                self._versions.set_alias(name, previous_of(alias), held)
            return self._point(alias, chosen)

    def rollback(self, name: str, alias: str = CHAMPION) -> Version:
        """Swap ``alias`` with its predecessor and return the version that holds it then.

        The version that lost the alias is tagged: a pipeline that produces the same artifact again
        does not promote it by itself.

        Raises:
            RegistryError: there is no predecessor to go back to.
        """
        with self._locked():
            current = self.show(name, alias)
            before = self.holder(name, previous_of(alias))
            if before is None or before.version == current.version:
                raise RegistryError(
                    f"{name}@{alias} is version {current.version} and has no predecessor. "
                    f"Promote another version: platformctl models promote {name} VERSION."
                )
            self._record("rollback", before, alias=alias, before=current.version)
            moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            self._versions.tag(current, {v.TAG_ROLLED_BACK: moment})
            # What serves first: after a crash in between the right version has the alias.
            self._point(alias, before)
            self._versions.set_alias(name, previous_of(alias), current.version)
            return self._versions.get(name, before.version)

    def _pass_gate(self, chosen: Version, holder: Version | None, forced: str | None) -> None:
        """Return if ``chosen`` may replace ``holder``, by the gate or by a ``forced`` reason."""
        against = holder.version if holder else None
        decision = chosen.decision
        if decision and chosen.decided_against != against:
            decision = self.decide(
                decision.policy,
                chosen.tags[v.TAG_METRICS],
                chosen.tags.get(v.TAG_PREDICTIONS),
                holder,
            )
            self._versions.store_decision(chosen, decision, against)
        if decision and decision.passed:
            return
        if forced:
            self._versions.tag(chosen, {v.TAG_STATUS: "forced", v.TAG_FORCED: forced})
            return
        why = " ".join(decision.reasons) if decision else "It has no gate decision."
        self._record("refuse", chosen, before=against, reason=why)
        raise GateRefused(
            f"{chosen.name} version {chosen.version} did not pass the gate: {why} "
            "To move the alias all the same: --force --reason WHY.",
            decision.model_dump(mode="json") if decision else None,
        )

    def _point(self, alias: str, target: Version) -> Version:
        """Set the alias, check that it stayed, and return its new holder."""
        self._versions.set_alias(target.name, alias, target.version)
        self._versions.untag(target, v.TAG_ROLLED_BACK)
        found = self.holder(target.name, alias)
        if found is None or found.version != target.version:
            raise RegistryError(
                f"{target.name}@{alias} was moved by another client at the same time. "
                f"See platformctl models list {target.name}."
            )
        return found

    def _record(self, action: str, target: Version, **details: Any) -> None:
        home_dir = self.settings.home_dir
        audit.record(home_dir, action, name=target.name, version=target.version, **details)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with exclusive_lock(self.settings.home_dir / "registry.lock"):
            yield


def previous_of(alias: str) -> str:
    """The alias that remembers who held ``alias`` before."""
    return PREVIOUS if alias == CHAMPION else f"{PREVIOUS}-{alias}"


def _is_previous(alias: str) -> bool:
    return alias == PREVIOUS or alias.startswith(f"{PREVIOUS}-")


def _is_gated(alias: str) -> bool:
    return alias != CANDIDATE and not _is_previous(alias)


def _check_alias(alias: str) -> None:
    if not _ALIAS.match(alias):
        raise UserError(
            f"alias {alias!r}: use letters, digits, '_' and '-', not 'latest' or 'v' and digits."
        )
    if _is_previous(alias):
        raise UserError(f"alias {alias!r} is kept by promote and rollback. Use rollback.")
