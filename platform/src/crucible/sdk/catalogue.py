"""From the value of ``uses`` in a pipeline file to a component class.

``uses`` is a catalogue name (``train-vlm``) or ``package.module:Class`` of the user's own code. The
catalogue is a dictionary of the data plane that is read by import string, because the control plane
never imports the data plane statically; loading one component imports its declaring module only.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from functools import cache
from types import ModuleType

from crucible.errors import Problem, UserError
from crucible.sdk.component import Component, slots_of
from crucible.sdk.description import ComponentInfo, describe
from crucible.sdk.reference import reference_markdown
from crucible.sdk.suggestion import did_you_mean

__all__ = [
    "ComponentInfo",
    "component_names",
    "describe",
    "load_component",
    "reference_markdown",
]

CATALOGUE_MODULE = "crucible_components.catalog"


def component_names() -> tuple[str, ...]:
    """Catalogue names, sorted; none where the data plane is not installed."""
    return tuple(sorted(_catalogue()))


@cache
def load_component(uses: str) -> type[Component]:
    """The component class that ``uses`` names, its declaration checked.

    Raises:
        UserError: unknown name, module that cannot be imported, class that is no component, or a
            declaration that contradicts itself.
    """
    catalogue = _catalogue()
    target = catalogue.get(uses, uses)
    module_name, colon, class_name = target.partition(":")
    if not (colon and module_name and class_name):
        raise UserError(
            f"no component {uses!r} in the catalogue. {did_you_mean(uses, catalogue)} "
            "Own components are written package.module:Class."
        )
    cls = _class_in(_import(module_name, uses), class_name, uses)
    problems = declaration_problems(cls)
    if problems:
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise UserError(f"component {uses!r} is declared wrongly:\n{lines}", problems)
    return cls


def declaration_problems(cls: type[Component]) -> list[Problem]:
    """What contradicts itself in a component's declaration; empty for a sound one."""
    where = cls.__qualname__
    if not isinstance(getattr(cls, "name", None), str):
        return [Problem(f"{where}.name", "is not set.", "Give the class a kebab-case name.")]
    if inspect.isabstract(cls):
        return [Problem(f"{where}.run", "is not defined.", "Define run().")]
    try:
        inputs = {slot.name for slot in slots_of(cls.Inputs)}
        outputs = slots_of(cls.Outputs)
    except (TypeError, NameError) as error:
        return [Problem(where, str(error), "Import the artifact types at module level.")]
    problems = [
        Problem(
            f"{where}.{name}",
            "is both an input and a setting.",
            "Rename one: both stand under `with` in a pipeline file.",
        )
        for name in sorted(inputs & cls.Config.model_fields.keys())
    ]
    for slot in outputs:
        if slot.same_variant_as is not None and slot.same_variant_as not in inputs:
            problems.append(
                Problem(
                    f"{where}.Outputs.{slot.name}",
                    f"takes its variant from the input {slot.same_variant_as!r}: no such input.",
                    did_you_mean(slot.same_variant_as, inputs),
                )
            )
        if slot.many:
            problems.append(
                Problem(
                    f"{where}.Outputs.{slot.name}", "is a list.", "Outputs are single artifacts."
                )
            )
    return problems


@cache
def _catalogue() -> Mapping[str, str]:
    try:
        module = importlib.import_module(CATALOGUE_MODULE)
    except ModuleNotFoundError as error:
        if error.name != CATALOGUE_MODULE.partition(".")[0]:
            raise
        return {}
    catalogue: Mapping[str, str] = module.CATALOGUE
    return catalogue


def _import(module_name: str, uses: str) -> ModuleType:
    try:
        return _import_from_path_or_working_folder(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            fix = "Install it, or run from the folder that holds it."
        else:
            fix = "Install what it imports, or import it inside run()."
        raise UserError(f"component {uses!r}: no module named {missing!r}. {fix}") from error
    except Exception as error:
        raise UserError(
            f"component {uses!r}: importing {module_name} failed: {type(error).__name__}: {error}. "
            "Fix the module."
        ) from error


def _import_from_path_or_working_folder(module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        here = os.getcwd()
        if error.name != module_name.partition(".")[0] or {"", here} & set(sys.path):
            raise
        # `python -m crucible.step` has the working folder on its path, a console script has not.
        sys.path.append(here)
        return importlib.import_module(module_name)


def _class_in(module: ModuleType, class_name: str, uses: str) -> type[Component]:
    found = getattr(module, class_name, None)
    if isinstance(found, type) and issubclass(found, Component):
        return found
    classes = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Component) and value is not Component
    ]
    what = "is not a subclass of crucible.sdk.component.Component" if found else "does not exist"
    raise UserError(
        f"component {uses!r}: {class_name} in {module.__name__} {what}. "
        f"{did_you_mean(class_name, classes)}"
    )
