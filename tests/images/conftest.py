"""Images built here from Debian's and PyPI's packages, and containers as a hardened pod has them.

Everything in this folder is marked ``images``. Where images cannot be built it is skipped, and the
end of the run says so aloud.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from crucible.artifacts import ArtifactRef
from crucible.engines.kfp.kubernetes_config import RUN_AS
from crucible.sdk.catalogue import load_component
from crucible.sdk.component import slots_of
from crucible.sdk.executor import StepParameters, build_executor_input
from crucible.testing.images import (
    ImageArchive,
    MachineUnfit,
    built_image,
    check_machine,
    storage_options,
)
from crucible.testing.left_out import leave_out

BUILD_SECONDS = 1800


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "images: builds container images, or runs what was built")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.images)
            item.add_marker(pytest.mark.timeout(BUILD_SECONDS))


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> Callable[[str], ImageArchive]:
    """Builds the image of a set, or takes it from the cache."""
    try:
        check_machine()
    except MachineUnfit as unfit:
        leave_out(request.config, "THE TESTS OF IMAGES", str(unfit))
        pytest.skip(str(unfit))
    return built_image


@dataclass(frozen=True)
class Containers:
    """Runs containers: no root, no capabilities, no network, a root that is read-only."""

    image: Callable[[str], ImageArchive]
    folder: Path
    """Shared with every container, under the same path, as a pod's volumes are."""

    def run(self, set_name: str, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run ``command`` in the image of a set until it ends."""
        return subprocess.run(
            [
                *("podman", *storage_options(), "--runtime", "runc"),
                *("--cgroup-manager", "cgroupfs", "--events-backend", "file"),
                *("run", "--rm", "--read-only", "--read-only-tmpfs=false", "--network", "none"),
                *("--cap-drop", "all", "--security-opt", "no-new-privileges"),
                # podman would raise the limits, which a machine may not let it
                *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"),
                *("--tmpfs", "/tmp:rw,mode=1777", "--tmpfs", "/scratch:rw,mode=1777"),
                *("--volume", f"{self.folder}:{self.folder}"),
                *(f"--env={name}={value}" for name, value in environ.items()),
                self.image(set_name).reference,
                *command,
            ],
            capture_output=True,
            text=True,
        )

    def python(self, set_name: str, code: str) -> Any:
        """What ``code`` prints as JSON."""
        done = self.run(set_name, "python3", "-P", "-c", code)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def step(
        self, set_name: str, uses: str, config: dict[str, Any], **inputs: Path
    ) -> dict[str, Path]:
        """Run one step as both engines do; returns its outputs' references."""
        number = len(list(self.folder.glob("attempt-*")))
        request = build_executor_input(
            step=StepParameters(run_id="r1", step_id="only", fingerprint=f"sha256:{number:064x}"),
            config=config,
            inputs={name: [path] for name, path in inputs.items()},
            outputs={slot.name: slot.type for slot in slots_of(load_component(uses).Outputs)},
            attempt_dir=self.folder / f"attempt-{number}",
        )
        request.output_file.parent.mkdir()
        for place in request.outputs.values():
            place.path.parent.mkdir(parents=True, exist_ok=True)
        give_away(self.folder)
        done = self.run(
            set_name,
            *("python3", "-P", "-m", "crucible.step", uses),
            *("--executor-input", json.dumps(request.to_json())),
            CRUCIBLE_STORE=(self.folder / "store").as_uri(),
        )
        assert done.returncode == 0, done.stderr
        assert request.output_file.exists()
        return {name: place.path for name, place in request.outputs.items()}

    def ref(self, path: Path) -> ArtifactRef:
        return ArtifactRef.read(path)


def give_away(folder: Path) -> None:
    """Let the user of our images own a folder and what is in it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, RUN_AS, RUN_AS)


@pytest.fixture
def containers(image: Callable[[str], ImageArchive], tmp_path: Path) -> Containers:
    return Containers(image, tmp_path)
