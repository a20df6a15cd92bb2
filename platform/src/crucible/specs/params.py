"""Values of a pipeline's parameters: default < preset < ``--set``, checked by declaration."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from crucible.errors import Problem, UserError
from crucible.sdk.suggestion import did_you_mean
from crucible.specs.document import Document, child_path, parse_value, shown
from crucible.specs.model import ParamSpec

_WANTED = {
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "list": "a list",
}
_CLASSES: dict[str, tuple[type, ...]] = {
    "number": (int, float),
    "string": (str,),
    "list": (list,),
}
_NUMERIC = ("integer", "number")


@dataclass
class ParamValues:
    """What each parameter stands for, and everything wrong with how it got there."""

    values: dict[str, Any] = field(default_factory=dict)
    """Missing: parameters whose value is in doubt; their problem is reported."""
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class ValueSources:
    """Where values of parameters come from, weakest first."""

    document: Document
    """The pipeline file, with the defaults."""
    preset: Document | None
    """A preset file of sound form."""
    overrides: Mapping[str, str]
    """Texts by name, read by the parameter's type."""

    @property
    def presets(self) -> Mapping[str, Any]:
        """Values of the preset by name."""
        return {} if self.preset is None else self.preset.value.get("params") or {}

    def strongest(self, name: str, spec: ParamSpec) -> tuple[Any, Problem | None]:
        """The value that counts, and what is wrong with it; a bad default is reported apart."""
        path = f"params.{name}"
        if name in self.overrides:
            value, fault = _read_override(spec, self.overrides[name])
            return value, Problem(f"--set {name}", fault) if fault else None
        if self.preset is not None and name in self.presets:
            value = self.presets[name]
            fault = value_fault(spec, value)
            return value, self.preset.problem(path, fault) if fault else None
        if spec.default is None:
            fix = f"Give it a default, or --set {name}=VALUE."
            return None, self.document.problem(path, "has no value.", fix)
        return spec.default, None

    def unknown(self, declared: Collection[str]) -> Iterator[Problem]:
        """Values for parameters that there are not."""
        for name in self.presets:
            if self.preset is not None and name not in declared:
                message = f"is no parameter of {self.document.file}."
                fix = did_you_mean(name, declared)
                yield self.preset.problem(f"params.{name}", message, fix, at_key=True)
        for name in self.overrides:
            if name not in declared:
                message = "is no parameter of the pipeline."
                yield Problem(f"--set {name}", message, did_you_mean(name, declared))


def resolve_params(declared: Mapping[str, ParamSpec | None], sources: ValueSources) -> ParamValues:
    """The value of every parameter; a declaration that is None is itself wrong and passed over."""
    found = ParamValues(problems=list(sources.unknown(declared)))
    for name, spec in declared.items():
        if spec is None:
            continue
        path = f"params.{name}"
        faults = list(_declaration_faults(spec))
        for key, message, fix in faults:
            found.problems.append(sources.document.problem(child_path(path, key), message, fix))
        if faults:
            continue
        if spec.default is not None and (fault := value_fault(spec, spec.default)):
            found.problems.append(sources.document.problem(f"{path}.default", fault))
        value, problem = sources.strongest(name, spec)
        if problem is not None:
            found.problems.append(problem)
        elif value_fault(spec, value) is None:
            found.values[name] = int(value) if spec.type == "integer" else value
    return found


def value_fault(spec: ParamSpec, value: Any) -> str | None:
    """What is wrong with ``value`` as a value of the parameter, as a message; None if nothing."""
    if not _has_type(spec.type, value):
        return f"got {shown(value)}, wants {_WANTED[spec.type]}."
    if spec.minimum is not None and value < spec.minimum:
        return f"got {value}, must be at least {spec.minimum:.12g}."
    if spec.maximum is not None and value > spec.maximum:
        return f"got {value}, must be at most {spec.maximum:.12g}."
    if spec.choices is not None:
        for item in value if spec.type == "list" else [value]:
            if item not in spec.choices:
                return f"got {shown(item)}. {did_you_mean(str(item), map(str, spec.choices))}"
    return None


def _has_type(kind: str, value: Any) -> bool:
    if kind == "boolean" or isinstance(value, bool):
        return kind == "boolean" and isinstance(value, bool)
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, _CLASSES[kind])


def _declaration_faults(spec: ParamSpec) -> Iterator[tuple[str, str, str]]:
    for key in ("minimum", "maximum"):
        if getattr(spec, key) is not None and spec.type not in _NUMERIC:
            fix = "Remove it, or use choices."
            yield key, f"bounds a number, but the type is {spec.type}.", fix
    if spec.minimum is not None and spec.maximum is not None and spec.minimum > spec.maximum:
        yield (
            "minimum",
            f"{spec.minimum:.12g} is above the maximum {spec.maximum:.12g}.",
            "Swap them.",
        )
    if spec.type != "list":
        for index, choice in enumerate(spec.choices or ()):
            if not _has_type(spec.type, choice):
                message = f"got {shown(choice)}, wants {_WANTED[spec.type]}."
                yield f"choices[{index}]", message, ""


def _read_override(spec: ParamSpec, text: str) -> tuple[Any, str | None]:
    """The value that ``text`` stands for, or what is wrong with it."""
    if spec.type == "string":
        value: Any = text
    elif spec.type == "list" and not text.lstrip().startswith("["):
        value = [_read_scalar(part.strip()) for part in text.split(",")] if text else []
    else:
        value = _read_scalar(text)
    return value, value_fault(spec, value)


def _read_scalar(text: str) -> Any:
    """``text`` as YAML; as it is where it is no YAML."""
    try:
        value = parse_value(text, "--set")
    except UserError:
        return text
    return text if value is None else value
