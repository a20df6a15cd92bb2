import gc
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from crucible.errors import UserError
from crucible.sdk.process import (
    Terminated,
    import_at_once,
    limit_threads,
    scratch_folder,
    unwinding_on_signals,
)
from crucible.sdk.retry import Backoff

THREADS = """
import sys
if sys.argv[2] == "before": import torch
from crucible.sdk.process import limit_threads
print(limit_threads(float(sys.argv[1])))
import torch
print(torch.get_num_threads())
"""


@pytest.mark.parametrize("imported", ["before", "after"])
def test_torch_uses_as_many_threads_as_the_step_has_cpus(imported: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", THREADS, "1.9", imported], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1"]


@pytest.mark.parametrize(("cpus", "threads"), [(0.2, 1), (1.0, 1), (10_000, os.cpu_count())])
def test_threads_stay_between_one_and_the_machine(
    monkeypatch: pytest.MonkeyPatch, cpus: float, threads: int
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert limit_threads(cpus) == threads
    assert os.environ["OMP_NUM_THREADS"] == str(threads)


def test_imports_are_not_interrupted_for_garbage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large_library.py").write_text("import gc\nCOLLECTED = gc.isenabled()\n")
    (tmp_path / "broken_library.py").write_text("import absent_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="absent_library"):
        import_at_once(["large_library", "broken_library"])
    assert not sys.modules.pop("large_library").COLLECTED
    assert gc.isenabled()


def signal_thrice(cleaned: list[bool]) -> None:
    with unwinding_on_signals():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            cleaned.append(True)


def test_first_signal_unwinds_and_later_ones_do_not() -> None:
    cleaned: list[bool] = []
    with pytest.raises(Terminated) as caught:
        signal_thrice(cleaned)
    assert cleaned == [True]
    assert caught.value.exit_code == 143


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with unwinding_on_signals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_other_threads_are_left_alone() -> None:
    entered = []

    def enter() -> None:
        with unwinding_on_signals():
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGTERM)]


def test_scratch_folder_is_empty_then_gone(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), scratch_folder(tmp_path / "new") as folder:
        (folder / str(len(list(folder.iterdir())))).write_text(str(1 // 0))
    assert not list((tmp_path / "new").iterdir())


def test_backoff_reads_the_environment() -> None:
    environ = {"CRUCIBLE_RETRY_LIMIT": "3", "CRUCIBLE_RETRY_BACKOFF_SECONDS": "0.5"}
    assert Backoff.from_environ(environ) == Backoff(limit=3, first_seconds=0.5)
    assert Backoff.from_environ({}) == Backoff(limit=0)


def test_every_wrong_backoff_variable_is_reported() -> None:
    environ = {
        "CRUCIBLE_RETRY_LIMIT": "1.5",
        "CRUCIBLE_RETRY_FACTOR": "-1",
        "CRUCIBLE_RETRY_MAX_SECONDS": "nan",
    }
    with pytest.raises(UserError) as caught:
        Backoff.from_environ(environ)
    assert [problem.path for problem in caught.value.problems] == list(environ)


def test_delays_double_up_to_the_cap_with_jitter() -> None:
    backoff = Backoff(limit=9, first_seconds=10, factor=2, max_seconds=60)
    rng = random.Random(1)
    for tries, full in enumerate([10, 20, 40, 60, 60], start=1):
        delays = [backoff.delay_seconds(tries, rng) for _ in range(50)]
        assert 0.75 * full <= min(delays) < 0.85 * full
        assert 0.9 * full < max(delays) <= full
