"""Fingerprints: the name under which a step's outputs are found again.

The parts are kept beside the digest, so that a miss can be explained by what changed. A part's name
says what it is: ``code``, ``config.schedule.warmup_steps``, ``input.dataset``, ``metric.offset``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from crucible.plan.model import Import, MetricRef, SlotInput, StepOutput
from crucible.sdk.component import Component
from crucible.sdk.fingerprint import code_digest


def fingerprint(parts: Mapping[str, str]) -> str:
    """``sha256:<hex>`` of the parts."""
    return _digest(dict(parts))


def fingerprint_parts(
    cls: type[Component],
    *,
    config: Mapping[str, Any],
    inputs: Iterable[SlotInput],
    metric_refs: Mapping[str, MetricRef],
    seed: int,
    environment: str,
    fingerprints: Mapping[str, str],
) -> dict[str, str]:
    """What the outputs of a step depend on.

    Args:
        cls: the step's component.
        config: settings with every default.
        inputs: what fills the slots.
        metric_refs: settings that other steps measure.
        seed: the step's.
        environment: image digest, or digest of the installed distributions.
        fingerprints: of the steps whose outputs and metrics are used, by step id.
    """
    parts = {
        "component": cls.name,
        "version": cls.version,
        "code": code_digest(cls),
        "environment": environment,
        "seed": str(seed),
    }
    parts |= {f"config.{name}": text for name, text in _flat(config, "")}
    for slot in inputs:
        identities = [_identity(source, fingerprints) for source in slot.sources]
        parts[f"input.{slot.slot}"] = _digest(identities) if slot.many else identities[0]
    for name, ref in metric_refs.items():
        producer = fingerprints[ref.step_id]
        parts[f"metric.{name}"] = f"{producer}/{ref.output}/{ref.metric}"
    return parts


def _identity(source: StepOutput | Import, fingerprints: Mapping[str, str]) -> str:
    if isinstance(source, Import):
        return source.identity
    return f"{fingerprints[source.step_id]}/{source.output}"


def _flat(value: Mapping[str, Any], path: str) -> Iterable[tuple[str, str]]:
    """Leaves of nested mappings by dotted name, as JSON."""
    for key, item in value.items():
        where = f"{path}.{key}" if path else str(key)
        if isinstance(item, Mapping) and item:
            yield from _flat(item, where)
        else:
            yield where, json.dumps(item, sort_keys=True)


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
