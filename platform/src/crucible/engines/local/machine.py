"""What this machine offers to the steps of a run."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from crucible.errors import Problem, UserError
from crucible.plan.model import Plan
from crucible.sdk.component import Resources

CPUS_VARIABLE = "CRUCIBLE_LOCAL_CPUS"
MEMORY_VARIABLE = "CRUCIBLE_LOCAL_MEMORY_GIB"
GRACE_VARIABLE = "CRUCIBLE_LOCAL_GRACE_SECONDS"
DEFAULT_GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL: enough to unwind, short enough for a shutdown of the machine."""
_MEMORY_FRACTION = 0.9
"""Of the machine's memory; the rest is for the system and the engine."""
GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """The budget that running steps share."""

    cpus: float
    memory_gib: float
    gpus: tuple[str, ...] = ()
    """Ids as ``CUDA_VISIBLE_DEVICES`` takes them."""
    grace_seconds: float = DEFAULT_GRACE_SECONDS
    """How long a step that is asked to end may take before it is killed."""

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Machine:
        """This machine, or what the variables ``CRUCIBLE_LOCAL_…`` make of it.

        Raises:
            UserError: a variable is no positive number.
        """
        problems: list[Problem] = []
        cpus = _positive(environ, CPUS_VARIABLE, problems) or float(_usable_cpus())
        memory_gib = _positive(environ, MEMORY_VARIABLE, problems) or _memory_gib()
        grace_seconds = _positive(environ, GRACE_VARIABLE, problems) or DEFAULT_GRACE_SECONDS
        if problems:
            raise UserError("; ".join(map(str, problems)), problems)
        return cls(cpus, memory_gib, _gpus(environ), grace_seconds)

    def fits_alone(self, wanted: Resources) -> bool:
        """True if the whole machine has what ``wanted`` asks for."""
        return self.has_room(wanted, ())

    def has_room(self, wanted: Resources, running: Iterable[Resources]) -> bool:
        """True if ``wanted`` fits beside what runs."""
        asked = [wanted, *running]
        rounding = 1e-9  # ten steps of 0.1 cpus fit one cpu
        return (
            sum(step.cpus for step in asked) <= self.cpus + rounding
            and sum(step.memory_gib for step in asked) <= self.memory_gib + rounding
            and sum(step.gpus for step in asked) <= len(self.gpus)
        )


def check_runs_here(plan: Plan, machine: Machine) -> None:
    """Raise one error for everything in ``plan`` that this machine can never do.

    More cpus or memory than there is only makes a step run alone and slowly; a GPU or a second
    node cannot be replaced.

    Raises:
        UserError: a step asks for more GPUs than there are, or for more than one node.
    """
    problems: list[Problem] = []
    fix = "Set resources for this machine, in a preset if the file also runs elsewhere."
    for step in plan.all_steps:
        where = f"steps.{step.name}.resources"
        if step.resources.gpus > len(machine.gpus):
            message = f"{step.resources.gpus}: this machine has {len(machine.gpus)} GPUs."
            problems.append(Problem(f"{where}.gpus", message, fix))
        if step.resources.nodes > 1:
            message = f"{step.resources.nodes}: the local engine has one node."
            problems.append(Problem(f"{where}.nodes", message, fix))
    unique = list(dict.fromkeys(problems))
    if unique:
        listed = "\n".join(f"- {problem}" for problem in unique)
        raise UserError(f"pipeline {plan.name} cannot run on this machine:\n{listed}", unique)


def _positive(environ: Mapping[str, str], name: str, problems: list[Problem]) -> float | None:
    text = environ.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        problems.append(
            Problem(name, f"{text!r}: must be a number above 0.", "Correct or unset it.")
        )
    return value


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gib() -> float:
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = Path(path)
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            total_bytes = min(total_bytes, int(text))
    return _MEMORY_FRACTION * total_bytes / GIB


def _gpus(environ: Mapping[str, str]) -> tuple[str, ...]:
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(part.strip() for part in visible.split(",") if part.strip() not in ("", "-1"))
    folder = Path("/proc/driver/nvidia/gpus")
    return tuple(map(str, range(len(list(folder.iterdir()))))) if folder.is_dir() else ()
