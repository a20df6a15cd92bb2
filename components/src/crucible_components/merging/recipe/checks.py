"""What can be said of a merge file by itself: its method, its parameters, its models."""

from __future__ import annotations

from collections.abc import Iterator

from crucible.errors import Problem
from crucible.sdk.suggestion import did_you_mean
from crucible_components.merging.methods import METHODS, Method, Parameter
from crucible_components.merging.recipe.schema import (
    Conditional,
    MergeFile,
    Parameters,
    Scalar,
    Setting,
    Slice,
)


def check_method(file: MergeFile) -> list[Problem]:
    """What is wrong with the method and its parameters."""
    method = METHODS.get(file.merge_method)
    if method is None:
        fix = did_you_mean(file.merge_method, METHODS)
        return [Problem("merge_method", f"is {file.merge_method!r}, no such method.", fix)]
    return [
        problem
        for path, parameters in _all_parameters(file)
        for problem in _check_parameters(path, parameters, method)
    ]


def check_file(file: MergeFile) -> list[Problem]:
    """Everything that is wrong with the file, whatever its models hold."""
    problems = check_method(file)
    method = METHODS.get(file.merge_method)
    if method is None:
        return problems
    problems += _check_base(file, method)
    for path, models in _source_lists(file):
        problems += _check_sources(path, models, file, method)
    return problems


def _check_base(file: MergeFile, method: Method) -> Iterator[Problem]:
    has_slice_bases = all(each.base_model is not None for each in file.slices or ())
    if method.base != "required" or file.base_model is not None:
        return
    if not file.slices or not has_slice_bases:
        fix = "Add base_model: the model that the others were fine-tuned from."
        yield Problem("base_model", f"is not set; {method.name} needs one.", fix)


def _check_sources(
    path: str, models: list[str], file: MergeFile, method: Method
) -> Iterator[Problem]:
    base = None if file.base_model is None else str(file.base_model)
    if base is not None and models.count(base) > 1 and method.base != "none":
        yield Problem(path, f"lists the base {base} {models.count(base)} times.", "List it once.")
    takes_base = base is not None and method.base != "none"
    count = len([model for model in models if not (takes_base and model == base)])
    if count < method.min_models:
        message = f"has {count} besides the base; {method.name} needs {method.min_models}."
        yield Problem(path, message, "List more models.")
    if method.max_models is not None and count > method.max_models:
        message = f"has {count} besides the base; {method.name} takes {method.max_models}."
        yield Problem(path, message, "List fewer, or choose another method.")


def _check_parameters(path: str, parameters: Parameters, method: Method) -> Iterator[Problem]:
    known = {parameter.name: parameter for parameter in method.parameters}
    for name, setting in parameters.items():
        where = f"{path}.{name}"
        if name not in known:
            fix = did_you_mean(name, known)
            yield Problem(where, f"is no parameter of {method.name}.", fix)
            continue
        for value in _values(setting):
            fault = _fault(value, known[name])
            if fault is not None:
                yield Problem(where, f"is {value!r}; {fault}.", "Change it.")


def _fault(value: Scalar, parameter: Parameter) -> str | None:
    """Which rule the value breaks."""
    if parameter.choices:
        choices = ", ".join(parameter.choices)
        return None if value in parameter.choices else f"one of {choices} is meant"
    if isinstance(parameter.default, bool):
        return None if isinstance(value, bool) else "true or false is meant"
    if isinstance(value, (bool, str)):
        return "a number is meant"
    too_low = parameter.minimum is not None and value < parameter.minimum
    too_high = parameter.maximum is not None and value > parameter.maximum
    if not too_low and not too_high and value == value:  # NaN is not itself
        return None
    limits = []
    if parameter.minimum is not None:
        limits.append(f"at least {parameter.minimum:g}")
    if parameter.maximum is not None:
        limits.append(f"at most {parameter.maximum:g}")
    return f"{' and '.join(limits) or 'a number'} is meant"


def _values(setting: Setting) -> Iterator[Scalar]:
    if not isinstance(setting, list):
        yield setting
        return
    for entry in setting:
        if isinstance(entry, Conditional):
            yield from _values(entry.value)
        else:
            yield entry


def _all_parameters(file: MergeFile) -> Iterator[tuple[str, Parameters]]:
    yield "parameters", file.parameters
    for index, source in enumerate(file.models or ()):
        yield f"models[{index}].parameters", source.parameters
    yield from _of_slices("slices", file.slices or ())
    for name, module in (file.modules or {}).items():
        yield f"modules.{name}.parameters", module.parameters
        for index, source in enumerate(module.models or ()):
            yield f"modules.{name}.models[{index}].parameters", source.parameters
        yield from _of_slices(f"modules.{name}.slices", module.slices or ())


def _of_slices(path: str, slices: list[Slice] | tuple[()]) -> Iterator[tuple[str, Parameters]]:
    for index, each in enumerate(slices):
        yield f"{path}[{index}].parameters", each.parameters
        for number, source in enumerate(each.sources):
            yield f"{path}[{index}].sources[{number}].parameters", source.parameters


def _source_lists(file: MergeFile) -> Iterator[tuple[str, list[str]]]:
    modules = {"": file} | {f"modules.{n}.": m for n, m in (file.modules or {}).items()}
    for path, module in modules.items():
        if module.models:
            yield f"{path}models", [str(each.model) for each in module.models]
        for index, each in enumerate(module.slices or ()):
            yield f"{path}slices[{index}].sources", [str(s.model) for s in each.sources]
