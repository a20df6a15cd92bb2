"""`load_pipeline`: from a path to a sound `PipelineSpec`, or to every mistake in the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crucible.errors import Problem, UserError
from crucible.sdk.suggestion import did_you_mean
from crucible.specs.check import Draft, check
from crucible.specs.document import Document, read_document, refused
from crucible.specs.form import form_problems, sound_part
from crucible.specs.model import (
    GateSpec,
    ParamSpec,
    PipelineDocument,
    PresetDocument,
    StepSpec,
    TaskSpec,
)
from crucible.specs.params import ValueSources, resolve_params
from crucible.specs.references import lookup_params, references_in, strings_in, substitute
from crucible.specs.spec import PipelineSpec

PRESETS_DIR_NAME = "presets"
_PRESET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_TEMPLATED = ("defaults", "steps", "on_exit", "release")
"""The parts of a pipeline file in which ``${params.NAME}`` stands for a value."""


def load_pipeline(
    path: Path, *, preset: str | None = None, overrides: Mapping[str, str] | None = None
) -> PipelineSpec:
    """Read and check a pipeline file; imports its components' declarations and nothing heavier.

    Args:
        path: the file.
        preset: takes parameter values from ``presets/<preset>.yaml`` beside it.
        overrides: parameter values as texts, read by the parameters' types; they win.

    Raises:
        UserError: with every problem of the file, the preset and the overrides.
    """
    document = read_document(path)
    problems = list(document.problems)
    preset_document = _read_preset(path, preset, problems)
    raw = document.value
    declared = {name: sound_part(ParamSpec, value) for name, value in _map(raw, "params").items()}
    params = resolve_params(declared, ValueSources(document, preset_document, overrides or {}))
    problems += params.problems
    value = _with_params(raw, params.values)
    of_form = form_problems(PipelineDocument, value, document)
    unreplaced = _unreplaced(value)
    problems += [problem for problem in of_form if problem.path not in unreplaced]
    steps = {name: sound_part(StepSpec, step) for name, step in _map(value, "steps").items()}
    draft = Draft(
        raw=raw,
        dir=path.parent,
        params=params.values,
        param_names=frozenset(declared),
        steps={name: step for name, step in steps.items() if step is not None},
        on_exit=sound_part(TaskSpec, value.get("on_exit")),
        gate=sound_part(GateSpec, _map(value, "release").get("gate")),
    )
    for fault in check(draft):
        problems.append(document.problem(fault.path, fault.message, fault.fix, at_key=fault.at_key))
    if problems or of_form:
        raise refused(document.file, list(dict.fromkeys(problems or of_form)))
    return _spec(path, document, params.values, value)


def _spec(
    path: Path, document: Document, params: dict[str, Any], value: Mapping[str, Any]
) -> PipelineSpec:
    sound = PipelineDocument.model_validate(value)
    return PipelineSpec(
        path=path,
        text=document.text,
        params=params,
        metadata=sound.metadata,
        defaults=sound.defaults,
        steps=sound.steps,
        on_exit=sound.on_exit,
        release=sound.release,
    )


def _map(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _with_params(raw: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """``raw`` with parameters in place, but for conditions, which compare them by name."""
    lookup = lookup_params(params)
    value = {
        key: substitute(item, lookup) if key in _TEMPLATED else item for key, item in raw.items()
    }
    for name, step in _map(value, "steps").items():
        if isinstance(step, dict) and "when" in step:
            step["when"] = raw["steps"][name]["when"]
    return value


def _unreplaced(value: Mapping[str, Any]) -> set[str]:
    """Paths of texts that still hold a reference: what it should be is told by `check`."""
    return {
        path
        for section in _TEMPLATED
        for path, text in strings_in(value.get(section), section)
        if any(True for _ in references_in(text))
    }


def _read_preset(path: Path, preset: str | None, problems: list[Problem]) -> Document | None:
    """The preset's file, or None and a problem."""
    if preset is None:
        return None
    folder = path.parent / PRESETS_DIR_NAME
    file = folder / f"{preset}.yaml"
    if not _PRESET_NAME.match(preset) or not file.is_file():
        names = [found.stem for found in folder.glob("*.yaml")] if folder.is_dir() else []
        message = f"there is no preset {preset!r} in {folder}."
        problems.append(Problem("--preset", message, did_you_mean(preset, names)))
        return None
    try:
        document = read_document(file)
    except UserError as error:
        problems += error.problems
        return None
    found = document.problems + form_problems(PresetDocument, document.value, document)
    problems += found
    return None if found else document
