"""A cluster by hand: ``python -m crucible.testing.cluster up``."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crucible.testing.cluster.failures import ClusterFailed
from crucible.testing.cluster.harness import start_cluster
from crucible.testing.cluster.images import import_archive
from crucible.testing.cluster.namespaces import Namespaces
from crucible.testing.cluster.programs import build_programs
from crucible.testing.cluster.slots import (
    FOLDER,
    NUM_SLOTS,
    describe_live,
    is_taken,
    sweep_leftovers,
)

_STOP_SECONDS = 60.0
_SLOT = "decides addresses and folder (default: the first that is free)"
_SHOWN = ("kubeconfig", "server", "gateway", "logs", "pid")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    chosen = _parser().parse_args(arguments)
    try:
        chosen.action(chosen)
    except ClusterFailed as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m crucible.testing.cluster", description=__doc__)
    actions = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, action: Any, about: str) -> argparse.ArgumentParser:
        command = actions.add_parser(name, help=about, description=about)
        command.set_defaults(action=action)
        return command

    up = add("up", _up, "Start a cluster, print its kubeconfig, stop it on ctrl-C")
    up.add_argument("--detach", action="store_true", help="return once it works; see down")
    up.add_argument("--slot", type=int, choices=range(NUM_SLOTS), metavar="0..63", help=_SLOT)
    down = add("down", _down, "Stop a cluster that runs detached or in another terminal")
    shown = add("kubeconfig", _kubeconfig, "Print the path of a cluster's kubeconfig")
    images = add("import", _import, "Give the node the images of a docker or OCI archive")
    images.add_argument("archive", type=Path)
    inside = add("run", _run, "Run a command among a cluster's processes, as in: run ip addr")
    inside.add_argument("command", nargs=argparse.REMAINDER)
    for command in (up, down, shown, images, inside):
        command.add_argument("--name", default="dev", help="of the cluster (default: dev)")
    add("status", _status, "List running clusters; removes what dead ones left")
    add("build", _build, "Build the programs only")
    return parser


def _up(chosen: argparse.Namespace) -> None:
    if any(state["name"] == chosen.name for state in describe_live()):
        raise ClusterFailed(f"cluster {chosen.name} runs already; see status, or take another name")
    if chosen.detach:
        _detach(chosen.name, chosen.slot)
        _kubeconfig(chosen)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with start_cluster(chosen.name, chosen.slot) as cluster, contextlib.suppress(KeyboardInterrupt):
        _say(f"export KUBECONFIG={cluster.kubeconfig}")
        while True:
            signal.pause()


def _detach(name: str, slot: int | None) -> None:
    """Start another of this program in the background; returns once its cluster works."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    log = FOLDER / f"{name}.log"
    wanted = [] if slot is None else [f"--slot={slot}"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "crucible.testing.cluster", "up", "--name", name, *wanted],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while not any(state["name"] == name for state in describe_live()):
        if process.poll() is not None:
            raise ClusterFailed(log.read_text().removeprefix("error: ").strip())
        time.sleep(0.2)


def _down(chosen: argparse.Namespace) -> None:
    state = _find(chosen.name)
    os.kill(state["pid"], signal.SIGTERM)
    number = int(Path(state["kubeconfig"]).parent.name)
    deadline = time.monotonic() + _STOP_SECONDS
    while is_taken(number):
        if time.monotonic() > deadline:
            raise ClusterFailed(f"process {state['pid']} did not end in {_STOP_SECONDS:.0f} s")
        time.sleep(0.1)


def _kubeconfig(chosen: argparse.Namespace) -> None:
    _say(_find(chosen.name)["kubeconfig"])


def _import(chosen: argparse.Namespace) -> None:
    for name in import_archive(_enter(chosen.name), chosen.archive):
        _say(name)


def _run(chosen: argparse.Namespace) -> None:
    command = chosen.command[1:] if chosen.command[:1] == ["--"] else chosen.command
    done = subprocess.run([*_enter(chosen.name).prefix(), *command], check=False)
    if done.returncode:
        raise ClusterFailed(f"{' '.join(command)} ended with {done.returncode}")


def _status(_: argparse.Namespace) -> None:
    for number in sweep_leftovers():
        logging.getLogger(__name__).info("removed what cluster %d left", number)
    states = list(describe_live())
    for state in states:
        _say("\n  ".join([state["name"], *(f"{key}: {state[key]}" for key in _SHOWN)]))
    if not states:
        _say("no cluster runs here")


def _build(_: argparse.Namespace) -> None:
    for path in build_programs().values():
        _say(path)


def _find(name: str) -> dict[str, Any]:
    for state in describe_live():
        if state["name"] == name:
            return state
    raise ClusterFailed(f"no cluster {name} runs here; start it with: up --name {name}")


def _enter(name: str) -> Namespaces:
    return Namespaces(_find(name)["first_pid"])


def _say(text: object) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
