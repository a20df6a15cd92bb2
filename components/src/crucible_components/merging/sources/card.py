"""The model card of a result: what was merged, how, and from which bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crucible import __version__
from crucible_components.merging.recipe.schema import MergeFile
from crucible_components.merging.sources.opening import Source

_PAGE = """---
{metadata}---

# {name}

Made by [merging](merge.yaml) {count} with the method `{method}`{base}, by Crucible {version}.

| model | role | bytes |
|---|---|---|
{rows}

The bytes of an artifact are fixed by its sha256, those of a model of the hub by its commit; those
of a folder were not recorded.

## Merge file

{fence}yaml
{yaml}
{fence}
"""


def model_card(
    file: MergeFile, merge_yaml: str, sources: Sequence[Source], *, name: str = "merged model"
) -> str:
    """The README.md of the result; the same for the same merge, whenever it is made.

    Args:
        file: the merge file.
        merge_yaml: its text as it was given.
        sources: the models, in the order of the file.
        name: a headline.
    """
    base = None if file.base_model is None else str(file.base_model)
    rows = [
        f"| {_cell(each.reference)} | {'base' if each.reference == base else 'source'} "
        f"| {_cell(each.digest) if each.digest else each.kind} |"
        for each in sources
    ]
    return _PAGE.format(
        metadata=_front_matter(sources),
        name=name,
        count=f"{len(sources)} model{'' if len(sources) == 1 else 's'}",
        method=file.merge_method,
        base="" if base is None else f" and `{base}` as base",
        version=__version__,
        rows="\n".join(rows),
        fence=_fence(merge_yaml),
        yaml=merge_yaml.rstrip("\n"),
    )


def _front_matter(sources: Sequence[Source]) -> str:
    import yaml

    metadata: dict[str, Any] = {"library_name": "transformers", "tags": ["merge"]}
    hub_names = [name for each in sources for name in each.hub_names]
    if hub_names:
        metadata["base_model"] = list(dict.fromkeys(hub_names))
        metadata["base_model_relation"] = "merge"
    text: str = yaml.safe_dump(metadata, sort_keys=True, allow_unicode=True)
    return text


def _cell(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _fence(text: str) -> str:
    """Longer than any in ``text``."""
    fence = "```"
    while fence in text:
        fence += "`"
    return fence
