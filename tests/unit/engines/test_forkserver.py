"""Real forks: isolation, logs, reaping, and that nothing survives its parent."""

from __future__ import annotations

import os
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crucible.engines.local.protocol import Exited, Job, Signal, Started
from crucible.engines.local.run_dir import is_locked
from crucible.engines.local.step_server import ServerProcess, fork_step_server
from crucible.sdk import kernel

PROGRAM = """
import os, subprocess, sys, threading, time

def main(argv):
    return globals()[argv[0]](*argv[1:])

def quiet(): return 0
def speak(text): print(text); print("to stderr", file=sys.stderr); return 0
def fail(code): return int(code)
def leave(code): sys.exit(code)
def crash(): raise ValueError("boom")
def hang(): print("hanging"); time.sleep(600)
def environ(): print(sorted(os.environ.items())); return 0
def ids(): print(os.getpid(), os.getsid(0), os.getpgrp(), os.getppid()); return 0
def descriptors(): print(len(os.listdir("/proc/self/fd"))); return 0
def threads(): print(threading.active_count(), len(os.listdir("/proc/self/task"))); return 0
def allocate(mib): block = b"x" * (int(mib) << 20); time.sleep(0.05); return len(block) < 0
def shout(mib):
    line = b"x" * 1023 + b"\\n"
    for _ in range(int(mib) * 1024): os.write(1, line)
    print("the last line"); return 0
def stubborn():
    import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print("hanging"); time.sleep(600)
def abandon():
    child = subprocess.Popen(["sleep", "600"]); print(child.pid); return 0
def hide():
    # a daemon in a process group of its own whose parent is gone
    if os.fork() == 0:
        os.setpgid(0, 0)
        if os.fork() == 0:
            print("daemon", os.getpid(), flush=True); time.sleep(600)
        os._exit(0)
    time.sleep(0.3); return 0
def late_thread():
    threading.Thread(target=lambda: (time.sleep(0.2), print("thread done"))).start(); return 0
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    (tmp_path / "forkserver_program.py").write_text(textwrap.dedent(PROGRAM))
    monkeypatch.syspath_prepend(str(tmp_path))
    process = fork_step_server(tmp_path / "processes.lock")
    yield process
    process.stop()


class Jobs:
    """Starts jobs and collects what the server says of them."""

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.pids: dict[str, int] = {}
        self.ended: dict[str, Exited] = {}

    def start(self, *argv: str, id: str = "", **fields: object) -> str:
        id = id or f"job{len(self.pids)}-{argv[0]}"
        job = Job(
            id=id,
            module="forkserver_program",
            argv=argv,
            environ={"PATH": os.environ["PATH"], "MARK": id},
            log_path=str(self.folder / f"{id}.txt"),
            **fields,  # type: ignore[arg-type]
        )
        self.server.channel.send(job)
        self.until(lambda: id in self.pids or id in self.ended)
        return id

    def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        self.server.channel.connection.settimeout(0.05)
        while not condition():
            assert time.monotonic() < deadline, "the server said nothing"
            try:
                messages = self.server.channel.receive()
            except TimeoutError:
                continue
            assert messages is not None, "the server is gone"
            for message in messages:
                if isinstance(message, Started):
                    self.pids[message.job] = message.pid
                elif isinstance(message, Exited):
                    self.ended[message.job] = message

    def run(self, *argv: str, **fields: object) -> tuple[Exited, str]:
        id = self.start(*argv, **fields)
        self.until(lambda: id in self.ended)
        return self.ended[id], "" if self.ended[id].error else self.log(id)

    def log(self, id: str) -> str:
        return (self.folder / f"{id}.txt").read_text()


@pytest.fixture
def jobs(server: ServerProcess, tmp_path: Path) -> Jobs:
    return Jobs(server, tmp_path)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def gone_soon(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


def test_output_of_both_streams_reaches_the_log(jobs: Jobs) -> None:
    ended, log = jobs.run("speak", "hello")
    assert ended.exit_code == 0
    assert log == "hello\nto stderr\n"


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("fail", "75"), 75, ""),
        (("leave", "no such option"), 1, "no such option"),
        (("crash",), 1, "ValueError: boom"),
    ],
)
def test_exit_codes_are_those_of_an_interpreter(
    jobs: Jobs, argv: tuple[str, ...], code: int, said: str
) -> None:
    ended, log = jobs.run(*argv)
    assert ended.exit_code == code
    assert said in log


def test_a_signal_is_reported_as_minus_its_number(jobs: Jobs) -> None:
    job = jobs.start("hang")
    os.kill(jobs.pids[job], signal.SIGKILL)
    jobs.until(lambda: job in jobs.ended)
    assert jobs.ended[job].exit_code == -signal.SIGKILL


def test_signal_message_ends_the_job(jobs: Jobs) -> None:
    job = jobs.start("hang")
    jobs.until(lambda: time.sleep(0.05) is None and "hanging" in jobs.log(job))
    jobs.server.channel.send(Signal(job, signal.SIGTERM))
    jobs.until(lambda: job in jobs.ended)
    assert jobs.ended[job].exit_code == -signal.SIGTERM


def test_jobs_share_neither_environment_nor_session(jobs: Jobs) -> None:
    _, environ = jobs.run("environ", id="one")
    assert eval(environ) == [("MARK", "one"), ("PATH", os.environ["PATH"])]
    _, text = jobs.run("ids")
    pid, session, group, parent = map(int, text.split())
    assert pid == session == group
    assert parent == jobs.server.pid


def test_a_fork_has_one_thread_and_no_foreign_descriptors(jobs: Jobs) -> None:
    _, before = jobs.run("descriptors")
    hanging = [jobs.start("hang") for _ in range(5)]
    _, during = jobs.run("descriptors")
    assert before == during
    _, threads = jobs.run("threads")
    assert threads.split() == ["1", "1"]
    for job in hanging:
        jobs.server.channel.send(Signal(job, signal.SIGKILL))
    jobs.until(lambda: set(hanging) <= jobs.ended.keys())


def test_threads_of_a_job_finish_before_it_ends(jobs: Jobs) -> None:
    ended, log = jobs.run("late_thread")
    assert (ended.exit_code, log) == (0, "thread done\n")


def test_peak_memory_is_that_of_the_job(jobs: Jobs) -> None:
    small, _ = jobs.run("allocate", "1")
    large, _ = jobs.run("allocate", "200")
    assert 190 << 20 < large.max_rss_bytes - small.max_rss_bytes < 260 << 20


def test_a_job_that_cannot_be_started_is_an_end_with_a_reason(jobs: Jobs) -> None:
    ended, _ = jobs.run("quiet", id="no/such/folder")
    assert ended.exit_code == 1
    assert "no/such/folder" in ended.error


def test_a_component_is_imported_once_for_all_jobs(jobs: Jobs, tmp_path: Path) -> None:
    marks = tmp_path / "marks.txt"
    (tmp_path / "forkserver_component.py").write_text(
        f"open({str(marks)!r}, 'a').write('imported ')\n"
        "from crucible.testing.components import Noop as Own\n"
    )
    for _ in range(3):
        ended, _ = jobs.run("quiet", component="forkserver_component:Own")
        assert ended.exit_code == 0
    assert marks.read_text() == "imported "


def test_a_component_that_cannot_be_imported_is_left_to_the_job(jobs: Jobs) -> None:
    ended, _ = jobs.run("quiet", component="no_such_module:Component")
    assert ended.exit_code == 0


def test_children_left_behind_are_killed(jobs: Jobs) -> None:
    _, log = jobs.run("abandon")
    assert gone_soon(int(log))
    bystander = jobs.start("hang")
    _, log = jobs.run("hide")
    assert gone_soon(int(log.split()[1]))
    assert alive(jobs.pids[bystander])


def test_the_end_of_a_long_log_is_kept(jobs: Jobs, tmp_path: Path) -> None:
    ended, _ = jobs.run("shout", "3", id="loud")
    assert ended.exit_code == 0
    lines = (tmp_path / "loud.txt").read_text().splitlines()
    assert len(lines) == 3 * 1024 + 1
    assert lines[-1] == "the last line"


def test_many_jobs_leak_neither_descriptors_nor_zombies(jobs: Jobs) -> None:
    jobs.run("quiet")
    before = os.listdir(f"/proc/{jobs.server.pid}/fd")
    for _ in range(50):
        jobs.run("quiet")
    assert os.listdir(f"/proc/{jobs.server.pid}/fd") == before
    children = [p for p in kernel.process_table() if p.parent_pid == jobs.server.pid]
    assert children == []


@pytest.mark.parametrize("job", ["hang", "stubborn"])
def test_a_broken_connection_kills_every_job(jobs: Jobs, tmp_path: Path, job: str) -> None:
    pids = [jobs.pids[jobs.start(job)] for _ in range(3)]
    jobs.server.channel.close()
    os.waitpid(jobs.server.pid, 0)
    assert not any(map(alive, pids))
    assert not is_locked(tmp_path / "processes.lock")


def test_killing_the_server_kills_every_job(jobs: Jobs, tmp_path: Path) -> None:
    pids = [jobs.pids[jobs.start("stubborn")] for _ in range(3)]
    os.kill(jobs.server.pid, signal.SIGKILL)
    assert all(map(gone_soon, pids))
    assert not is_locked(tmp_path / "processes.lock")


def test_signals_do_not_end_the_server(jobs: Jobs) -> None:
    jobs.run("quiet")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(jobs.server.pid, number)
    ended, _ = jobs.run("quiet")
    assert ended.exit_code == 0
