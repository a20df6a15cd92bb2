"""Container images made from one static program, and their way into containerd.

Nothing can be pulled where there is no registry, and a build tool would be one more thing to
install for what is a tar file: busybox, a link for each of its commands, and the files of a test.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crucible.testing.cluster.failures import ClusterFailed
from crucible.testing.cluster.namespaces import Namespaces

PAUSE_IMAGE = "docker.io/library/crucible-pause:1"
"""What holds a pod's namespaces open; named in containerd's settings."""
SHELL_IMAGE = "docker.io/library/crucible-shell:1"
"""busybox and nothing else, for pods of tests."""
SOCKET = "/run/containerd/containerd.sock"
"""containerd's, in the cluster's own /run."""
_CTR = ("ctr", "--address", SOCKET, "--namespace", "k8s.io", "images")
_MANAGED = "io.cri-containerd.image=managed"
_OCI_NAME = "org.opencontainers.image.ref.name"
_NOTICE_SECONDS = 30.0


def write_image(
    archive: Path,
    name: str,
    *,
    files: Mapping[str, bytes] | None = None,
    command: Sequence[str] = ("/bin/sh",),
    environ: Mapping[str, str] | None = None,
    user: str = "",
) -> Path:
    """Write a docker archive of busybox and ``files``; returns ``archive``.

    Args:
        archive: where.
        name: with a tag other than ``latest``, which a kubelet always wants to pull.
        files: content by absolute path; all may be executed.
        command: what a pod runs that does not say.
        environ: beside a search path.
        user: number or ``number:number``; root if empty.
    """
    layer = _layer(files or {})
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    variables = {"PATH": "/bin", **(environ or {})}
    settings = {
        "Cmd": list(command),
        "Env": [f"{key}={value}" for key, value in variables.items()],
        "User": user,
        "WorkingDir": "/",
    }
    config: dict[str, Any] = {
        "architecture": _architecture(),
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as tar:
        _add(tar, "layer.tar", layer)
        _add(tar, "config.json", json.dumps(config).encode())
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return archive


def import_archive(namespaces: Namespaces, archive: Path) -> list[str]:
    """Give containerd the images of a docker or OCI archive; returns their full names.

    The kubelet hears of an image a moment after containerd has it, and a pod with
    ``imagePullPolicy: Never`` would fail for good in between: this waits for the mark of it.

    Raises:
        ClusterFailed: not an archive, or the kubelet's side did not notice.
    """
    names = image_names(archive)
    namespaces.run(*_CTR, "import", str(archive.resolve()))
    deadline = time.monotonic() + _NOTICE_SECONDS
    waiting = list(names)
    while waiting:
        if _MANAGED in namespaces.run(*_CTR, "ls", f"name=={waiting[0]}"):
            waiting.pop(0)
        elif time.monotonic() > deadline:
            raise ClusterFailed(f"containerd has {waiting[0]}, but shows it to no kubelet")
        else:
            time.sleep(0.05)
    return names


def image_names(archive: Path) -> list[str]:
    """What containerd will call the images of an archive."""
    with tarfile.open(archive) as tar:
        members = set(tar.getnames())
        if "manifest.json" in members:
            tags = [tag for image in _read(tar, "manifest.json") for tag in image["RepoTags"] or ()]
        elif "index.json" in members:
            entries = _read(tar, "index.json")["manifests"]
            tags = [entry.get("annotations", {}).get(_OCI_NAME, "") for entry in entries]
        else:
            raise ClusterFailed(f"{archive} is neither a docker nor an OCI archive")
    if not tags or not all(":" in tag for tag in tags):
        raise ClusterFailed(f"{archive}: an image needs a full name, as in localhost/name:1")
    return [_full_name(tag) for tag in tags]


def _full_name(name: str) -> str:
    first, slash, _ = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return name
    return f"docker.io/{name}" if slash else f"docker.io/library/{name}"


def _read(tar: tarfile.TarFile, member: str) -> Any:
    file = tar.extractfile(member)
    assert file is not None
    return json.load(file)


def _layer(files: Mapping[str, bytes]) -> bytes:
    busybox = shutil.which("busybox")
    if busybox is None:
        raise ClusterFailed("no busybox here. Install it: apt-get install busybox-static")
    listing = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        _add(tar, "bin/busybox", Path(busybox).read_bytes())
        for applet in listing.stdout.split():
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
        for path, content in files.items():
            _add(tar, path.lstrip("/"), content)
    return buffer.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o755
    tar.addfile(entry, io.BytesIO(content))


def _architecture() -> str:
    """In the words of image formats."""
    import platform

    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
