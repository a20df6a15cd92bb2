"""Programs that build images: buildah, podman, docker. Each is told the same in its own words."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from crucible.errors import ImageError, TemporaryError, UserError

BuilderName = Literal["buildah", "podman", "docker"]
LAYER_TIME = 315532800
"""1980-01-01, the first moment that a zip file can name: the same in every build, so that equal
content gives equal layers."""
_TAIL_LINES = 20
_TEMPORARY = re.compile(
    r"timeout|timed out|connection (refused|reset)|temporary failure|no route to host"
    r"|TLS handshake|unexpected EOF|too ?many ?requests|service unavailable|bad gateway",
    re.IGNORECASE,
)
_PUSHED = re.compile(r"digest: (sha256:[0-9a-f]{64})")


@dataclass(frozen=True)
class Build:
    """One image to build."""

    containerfile: Path
    context_dir: Path
    name: str
    """``name:tag`` on this machine."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    """Files that steps of the build may read, by name. They are in no layer."""
    options: Sequence[str] = ()
    """More options of the builder's own."""


@dataclass(frozen=True)
class Builder:
    """An installed builder. Found with `find_builder`."""

    name: BuilderName
    program: str
    options: Sequence[str] = ()
    """Before the verb, e.g. where the builder keeps its images."""
    environ: Mapping[str, str] = field(default_factory=dict)
    """Beside the environment of this process."""
    quiet: bool = False
    """Keep what the builder prints for the message of a failure, instead of showing it."""

    def build(self, build: Build) -> None:
        """Build one image.

        Raises:
            ImageError: with the builder's last lines.
            TemporaryError: the same, where the network seems to be the cause.
        """
        command = ["build", "--file", str(build.containerfile), "--tag", build.name]
        if self.name == "docker":
            command += ["--build-arg", f"SOURCE_DATE_EPOCH={LAYER_TIME}"]
        else:
            command += ["--layers", "--timestamp", str(LAYER_TIME)]
        for name, value in build.arguments.items():
            command += ["--build-arg", f"{name}={value}"]
        for name, path in build.secrets.items():
            command += ["--secret", f"id={name},src={path}"]
        self.run(f"build {build.name}", *command, *build.options, str(build.context_dir))

    def has(self, image: str) -> bool:
        """True if this machine has the image."""
        verb = ("image", "inspect") if self.name == "docker" else ("inspect", "--type", "image")
        return self._start(*verb, image, capture=True).returncode == 0

    def label(self, image: str, name: str) -> str:
        """A label of an image of this machine; empty if it has none of that name."""
        config = ".OCIv1.Config" if self.name == "buildah" else ".Config"
        template = f'{{{{index {config}.Labels "{name}"}}}}'
        verb = ("image", "inspect") if self.name == "docker" else ("inspect", "--type", "image")
        said = self.run(f"inspect {image}", *verb, "--format", template, image, capture=True)
        return said.strip().removeprefix("<no value>")

    def push(self, image: str, destination: str) -> str:
        """Copy an image of this machine into a registry; returns the digest it has there.

        Raises:
            ImageError: with the builder's last lines.
            TemporaryError: the same, where the network seems to be the cause.
        """
        if self.name == "docker":
            self.run(f"tag {image}", "tag", image, destination)
            said = self.run(f"push {destination}", "push", destination, capture=True)
            found = _PUSHED.findall(said)
            if not found:
                raise ImageError(f"docker push {destination} told no digest. It said:\n{said}")
            return str(found[-1])
        with tempfile.NamedTemporaryFile("r", prefix="crucible-digest-") as file:
            arguments = ("--digestfile", file.name, image, f"docker://{destination}")
            self.run(f"push {destination}", "push", *arguments)
            return file.read().strip()

    def read_file(self, image: str, path: str) -> str:
        """The text of a file in an image."""
        action = f"read {path} of {image}"
        make = ("from", "--pull-never") if self.name == "buildah" else ("create",)
        container = self.run(action, *make, image, capture=True).strip()
        try:
            if self.name == "buildah":
                return self.run(action, "run", container, "--", "cat", path, capture=True)
            with tempfile.TemporaryDirectory(prefix="crucible-image-") as folder:
                copy = Path(folder) / "file"
                self.run(action, "cp", f"{container}:{path}", str(copy), capture=True)
                return copy.read_text(encoding="utf-8")
        finally:
            self.run(action, "rm", container, capture=True)

    def run(self, action: str, *arguments: str, capture: bool = False) -> str:
        """Run the builder with ``arguments``; returns its output if that is kept.

        Args:
            action: what fails if it does, for the message.
            arguments: from the verb on.
            capture: keep the output even if this builder shows it.
        """
        done = self._start(*arguments, capture=capture or self.quiet)
        if done.returncode == 0:
            return done.stdout or ""
        said = "\n".join((done.stdout + done.stderr).splitlines()[-_TAIL_LINES:])
        message = f"{action}: {self.name} ended with exit code {done.returncode}. It said:\n{said}"
        raise (TemporaryError if _TEMPORARY.search(said) else ImageError)(message)

    def _start(self, *arguments: str, capture: bool) -> subprocess.CompletedProcess[str]:
        command = [self.program, *self.options, *arguments]
        environ = {**os.environ, **self.environ}
        if not capture:
            return _run_shown(command, environ)
        return subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )


def find_builder(wanted: BuilderName | None, *, quiet: bool = False) -> Builder:
    """The builder that the user wants, or the first that is installed.

    Raises:
        UserError: it is not installed, or none is.
    """
    for name in (wanted,) if wanted else get_args(BuilderName):
        program = shutil.which(name)
        if program is not None:
            return Builder(name, program, quiet=quiet)
    missing = f"{wanted} is not installed" if wanted else "no program that builds images is here"
    raise UserError(
        f"{missing}. Install one of {', '.join(get_args(BuilderName))}; on Debian and Ubuntu "
        "`apt-get install buildah`."
    )


def _run_shown(
    command: Sequence[str], environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run with all output on stderr, since stdout is for results; its last lines are kept."""
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stderr.write(line)
            tail.append(line)
    return subprocess.CompletedProcess(command, process.returncode, "".join(tail), "")
