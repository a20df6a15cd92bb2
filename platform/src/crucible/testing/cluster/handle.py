"""A cluster to test against, whoever started it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from crucible.testing.cluster.credentials import write_kubeconfig
from crucible.testing.cluster.failures import ClusterFailed
from crucible.testing.cluster.pods import hardened_pod_spec, pod

KUBECONFIG_VARIABLE = "CRUCIBLE_TEST_KUBECONFIG"
"""Names the kubeconfig of a running cluster; its user must be an administrator."""
IMAGE_VARIABLE = "CRUCIBLE_TEST_IMAGE"
"""An image with a shell that the given cluster can run."""
_COMMAND_SECONDS = 300.0

Manifest = str | Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""YAML text, one object, or several."""


class Cluster:
    """A kubeconfig with the rights of an administrator, and what tests do with it."""

    gateway: str | None = None
    """The address at which pods reach servers of this machine; None if nobody knows."""

    def __init__(self, kubeconfig: Path, scratch: Path, kubectl: str | None = None) -> None:
        """Use a kubeconfig; ``scratch`` is for caches, ``kubectl`` is on the path if None."""
        found = kubectl or shutil.which("kubectl")
        if found is None:
            raise ClusterFailed("no kubectl here. Put one on the path")
        self.kubeconfig = kubeconfig
        self._scratch = scratch
        self._kubectl = found

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self._connection()["server"])

    @property
    def shell_image(self) -> str:
        """An image with busybox or more, for pods with ``imagePullPolicy: IfNotPresent``."""
        return os.environ.get(IMAGE_VARIABLE, "busybox:1.37")

    @property
    def environ(self) -> dict[str, str]:
        """What kubectl and client libraries read; no proxy stands before a test cluster."""
        return {"KUBECONFIG": str(self.kubeconfig), "NO_PROXY": "*", "no_proxy": "*"}

    def with_kubeconfig(self, path: Path) -> Cluster:
        """The same cluster as another user sees it."""
        return Cluster(path, self._scratch, self._kubectl)

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Run kubectl with ``text`` as its input; returns what it wrote.

        Raises:
            ClusterFailed: it ended with an error; with what it said.
        """
        command = [self._kubectl, f"--cache-dir={self._scratch / 'kubectl-cache'}", *arguments]
        done = subprocess.run(
            command,
            env={**os.environ, **self.environ},
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_SECONDS,
        )
        if done.returncode:
            raise ClusterFailed(f"kubectl {' '.join(arguments)}: {done.stderr.strip()[-4000:]}")
        return done.stdout

    def apply(self, manifest: Manifest, namespace: str | None = None) -> None:
        """Create or change objects on the server's side, so that rejected fields are errors."""
        where = [f"--namespace={namespace}"] if namespace else []
        self.kubectl(
            "apply", "--server-side", "--force-conflicts", *where, "-f", "-", text=_text(manifest)
        )

    def add_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> str:
        """Create a namespace; returns its name once pods can be made in it.

        Pods are refused until a controller has made the account that they run as.
        """
        metadata = {"name": name, "labels": dict(labels or {})}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self.wait("create", "serviceaccount/default", namespace=name)
        return name

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """One object.

        Raises:
            ClusterFailed: there is none of that name.
        """
        found = self.kubectl("get", kind, name, f"--namespace={namespace}", "-o", "json")
        document: dict[str, Any] = json.loads(found)
        return document

    def wait(
        self, condition: str, *objects: str, namespace: str = "default", timeout_seconds: int = 120
    ) -> None:
        """Return once a condition holds, in the words of ``kubectl wait --for``.

        Raises:
            ClusterFailed: it does not hold in time.
        """
        self.kubectl(
            "wait", f"--for={condition}", f"--timeout={timeout_seconds}s",
            f"--namespace={namespace}", *objects,
        )  # fmt: skip

    def run_pod(self, script: str, namespace: str, name: str = "script") -> str:
        """Run a shell script in a hardened pod to its end; returns what it wrote.

        Raises:
            ClusterFailed: it did not end well.
        """
        self.apply(pod(name, hardened_pod_spec(self.shell_image, script)), namespace)
        self.wait("jsonpath={.status.phase}=Succeeded", f"pod/{name}", namespace=namespace)
        return self.kubectl("logs", name, f"--namespace={namespace}")

    def account_kubeconfig(self, account: str, namespace: str = "default") -> Path:
        """A kubeconfig with a token of a service account, for what its pods may do."""
        token = self.kubectl("create", "token", account, f"--namespace={namespace}").strip()
        connection = self._connection()
        return write_kubeconfig(
            self._scratch / f"{namespace}.{account}.kubeconfig",
            connection["server"],
            connection["certificate-authority-data"],
            {"token": token},
            namespace,
        )

    def _connection(self) -> dict[str, str]:
        raw = self.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json")
        [entry] = json.loads(raw)["clusters"]
        connection: dict[str, str] = entry["cluster"]
        return connection


def _text(manifest: Manifest) -> str:
    if isinstance(manifest, str):
        return manifest
    objects = [manifest] if isinstance(manifest, Mapping) else manifest
    return yaml.safe_dump_all([dict(item) for item in objects])
