"""A merge file from its text."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import ValidationError

from crucible.errors import Problem, UserError
from crucible.sdk.validation import model_problems
from crucible_components.merging.recipe.checks import check_file
from crucible_components.merging.recipe.schema import MergeFile


def parse(text: str) -> MergeFile:
    """The merge that a YAML text describes.

    Raises:
        UserError: with all that is wrong with it, whatever its models hold.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        reason = str(getattr(error, "problem", None) or error)
        raise refused([Problem("", f"is not YAML: {reason}.", line=line)]) from error
    if not isinstance(values, dict):
        found = type(values).__name__
        raise refused([Problem("", f"holds {found}, not a mapping.", "Begin with merge_method.")])
    return validate(values)


def validate(values: dict[str, Any]) -> MergeFile:
    """The merge that these keys describe.

    Raises:
        UserError: with all that is wrong with it, whatever its models hold.
    """
    try:
        file = MergeFile.model_validate(values)
    except ValidationError as error:
        problems = model_problems(error, MergeFile, values, name="a merge file")
        raise refused(problems) from None
    if problems := check_file(file):
        raise refused(problems)
    return file


def refused(problems: list[Problem]) -> UserError:
    """One error for all problems."""
    count = f"{len(problems)} problem{'' if len(problems) == 1 else 's'}"
    lines = "".join(f"\n  {problem}" for problem in problems)
    return UserError(f"this merge cannot be done ({count}):{lines}", problems)
