"""What was pushed last: a file in the home folder that `platformctl images digest` prints."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from crucible.errors import UserError
from crucible.images.reference import Reference, parse_reference

FILE_NAME = "images.json"


@dataclass(frozen=True)
class Pushed:
    """One image in a registry."""

    set_name: str
    reference: str
    """``name:tag@sha256:…``."""
    revision: str
    """Of the source that it was built from."""
    inputs_digest: str
    """Of the files that it was built from, to tell when it is out of date."""

    @property
    def parsed(self) -> Reference:
        return parse_reference(self.reference)


def read_record(home_dir: Path) -> dict[str, Pushed]:
    """The images pushed last, by set; empty if there are none.

    Raises:
        UserError: the file is not what we write.
    """
    path = home_dir / FILE_NAME
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {name: Pushed(**entry) for name, entry in entries.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error}. Remove it and push again.") from error


def add_to_record(home_dir: Path, pushed: Pushed) -> None:
    """Note one image, in place of the last one of its set."""
    record = read_record(home_dir) | {pushed.set_name: pushed}
    entries = {name: asdict(entry) for name, entry in sorted(record.items())}
    home_dir.mkdir(parents=True, exist_ok=True)
    draft = home_dir / f"{FILE_NAME}.{os.getpid()}"
    draft.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    draft.replace(home_dir / FILE_NAME)
