"""What a step asks of its own process: thread pools, imports, unwinding on signals, a folder."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

_THREAD_POOL_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Terminated(BaseException):
    """Raised in the main thread on SIGTERM or SIGINT, so that everything is unwound.

    No ``Exception``: a component that catches those must not survive it.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """As shells report a process ended by the signal."""
        return 128 + self.signal_number


def limit_threads(cpus: float) -> int:
    """Size the thread pools of libraries to ``cpus``: rounded down, from 1 to what the machine has.

    Most read the environment when they are imported; a torch that is loaded already (by the server
    that this process was forked from) is told directly.

    Returns:
        The number of threads.
    """
    threads = max(1, min(int(cpus), os.cpu_count() or 1))
    os.environ.update(dict.fromkeys(_THREAD_POOL_VARIABLES, str(threads)))
    # Threads that spin while they wait starve the steps beside this one: a GRPO step on two busy
    # cores took 3 to 7 CPU seconds with spinning threads and 0.6 to 0.8 with sleeping ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
    return threads


def import_at_once(modules: Iterable[str]) -> None:
    """Import ``modules`` without looking for garbage in between.

    Nearly all that an import makes is there to stay, and every full collection walks through it
    anew: a fifth of the CPU time in which torch and transformers are imported.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for name in modules:
            importlib.import_module(name)
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def unwinding_on_signals() -> Iterator[None]:
    """Within the block the first SIGTERM or SIGINT raises `Terminated`; later ones do nothing.

    Outside the main thread, where Python delivers no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def unwind(number: int, frame: FrameType | None) -> None:
        ignore_signals()
        raise Terminated(number)

    previous = {number: signal.signal(number, unwind) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def ignore_signals() -> None:
    """Let SIGTERM and SIGINT do nothing from here on: what is left must not be torn apart."""
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def scratch_folder(parent: Path | None) -> Iterator[Path]:
    """A new empty folder below ``parent`` (the system's default if None), removed at the end."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="step-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
