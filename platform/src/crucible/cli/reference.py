"""The generated references under `platform/docs/reference`: `python -m crucible.cli.reference`.

Without ``--write`` it names the stale files and exits 1; a test calls it that way.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import typer

REFERENCE_DIR = Path(__file__).parents[3] / "docs" / "reference"
HELP_WIDTH = 100


def references() -> dict[str, str]:
    """Text of every generated page by file name."""
    from crucible.sdk.catalogue import component_names, load_component, reference_markdown
    from crucible.specs import pipeline_json_schema

    pages = [reference_markdown(load_component(name)) for name in component_names()]
    components = [re.sub(r"^#", "##", page, flags=re.MULTILINE) for page in pages]
    return {
        "components.md": "# Components\n\n" + "\n".join(components),
        "cli.md": _cli_page(),
        "pipeline.schema.json": json.dumps(pipeline_json_schema(), indent=2) + "\n",
    }


def _cli_page() -> str:
    from typer.core import TyperGroup

    from crucible.cli.main import app

    root = typer.main.get_command(app)
    context = root.make_context("platformctl", [], resilient_parsing=True)
    sections = ["# platformctl\n"]
    pending = [("platformctl", root, context)]
    while pending:
        name, command, parent = pending.pop(0)
        with command.make_context(
            name.split()[-1],
            [],
            parent=parent if name != "platformctl" else None,
            resilient_parsing=True,
            terminal_width=HELP_WIDTH,
            max_content_width=HELP_WIDTH,
        ) as inner:
            sections.append(f"## {name}\n\n```\n{command.get_help(inner)}\n```\n")
            children = command.commands if isinstance(command, TyperGroup) else {}
            for child_name, child in children.items():
                pending.append((f"{name} {child_name}", child, inner))
    return "\n".join(sections)


def main() -> int:
    """Write the references, or name those that are stale."""
    stale = [
        name
        for name, text in references().items()
        if not (REFERENCE_DIR / name).exists() or (REFERENCE_DIR / name).read_text() != text
    ]
    if "--write" not in sys.argv:
        for name in stale:
            sys.stderr.write(f"{name} is stale: run `make docs`\n")
        return 1 if stale else 0
    REFERENCE_DIR.mkdir(parents=True, exist_ok=True)
    for name, text in references().items():
        (REFERENCE_DIR / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
