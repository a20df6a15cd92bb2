"""`platformctl images push` with real builders and a registry that keeps what it is sent."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

PLATFORMCTL = Path(sys.executable).parent / "platformctl"
CHECKOUT = Path(__file__).parents[2]
CONTAINERFILE = """\
FROM scratch
COPY content /content
LABEL org.opencontainers.image.revision=abc dev.crucible.inputs=sha256:def
"""


class Registry(ThreadingHTTPServer):
    """The part of the OCI distribution API that a push needs; blobs and manifests in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blobs: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.refuses = False

    @property
    def address(self) -> str:
        return f"localhost:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Registry
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200 if urlsplit(self.path).path == "/v2/" else 404)

    def do_HEAD(self) -> None:
        found = self.server.blobs.get(self.path.rpartition("/")[2])
        self._answer(404 if found is None else 200, Content_Length=str(len(found or b"")))

    def do_POST(self) -> None:
        self._body()
        if self.server.refuses:
            self._answer(403)
            return
        upload = str(len(self.server.uploads))
        self.server.uploads[upload] = b""
        self._answer(202, Location=f"{self.path.rstrip('/')}/{upload}", Range="0-0")

    def do_PATCH(self) -> None:
        upload = self.path.rpartition("/")[2]
        self.server.uploads[upload] += self._body()
        end = len(self.server.uploads[upload]) - 1
        self._answer(202, Location=self.path, Range=f"0-{end}")

    def do_PUT(self) -> None:
        body, parts = self._body(), urlsplit(self.path)
        name = parts.path.rpartition("/")[2]
        if "/manifests/" in parts.path:
            self.server.manifests[parts.path.removeprefix("/v2/")] = body
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        else:
            (digest,) = parse_qs(parts.query)["digest"]
            self.server.blobs[digest] = self.server.uploads[name] + body
        self._answer(201, Docker_Content_Digest=digest, Location=parts.path)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": "0"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Silent."""


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def environ(tmp_path: Path, registry: Registry) -> dict[str, str]:
    """A container storage of the test's own that holds the image of one set, called ``t1``."""
    if os.geteuid() != 0 or not all(shutil.which(name) for name in ("buildah", "podman")):
        pytest.skip("needs root, buildah and podman: apt-get install buildah podman")
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n'
    )
    (tmp_path / "registries.conf").write_text(
        f'[[registry]]\nlocation = "{registry.address}"\ninsecure = true\n'
    )
    (tmp_path / "content").write_text("content")
    (tmp_path / "Containerfile").write_text(CONTAINERFILE)
    variables = {
        **os.environ,
        "CONTAINERS_STORAGE_CONF": str(tmp_path / "storage.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(tmp_path / "registries.conf"),
        "CRUCIBLE_HOME": str(tmp_path / "home"),
    }
    name = "localhost/crucible/train:t1"
    command = ["buildah", "build", "--quiet", "--tag", name, str(tmp_path)]
    subprocess.run(command, env=variables, check=True, capture_output=True)
    return variables


def platformctl(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PLATFORMCTL, "images", *arguments],
        env=environ,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("builder", ["buildah", "podman"])
def test_the_digest_printed_is_the_registrys(
    environ: dict[str, str], registry: Registry, builder: str
) -> None:
    pushed = platformctl(
        environ, "push", f"{registry.address}/team", "train", "--tag", "t1", "--builder", builder
    )
    assert pushed.returncode == 0, pushed.stderr
    manifest = registry.manifests["team/train/manifests/t1"]
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    assert pushed.stdout == f"{registry.address}/team/train:t1@{digest}\n"
    described = json.loads(manifest)
    wanted = [described["config"]["digest"], *(layer["digest"] for layer in described["layers"])]
    assert wanted
    assert registry.blobs.keys() >= set(wanted)
    printed = platformctl(environ, "digest")
    assert printed.stdout == f"images:\n  train: {registry.address}/team/train@{digest}\n"
    record = json.loads((Path(environ["CRUCIBLE_HOME"]) / "images.json").read_text())
    assert (record["train"]["revision"], record["train"]["inputs_digest"]) == ("abc", "sha256:def")


def test_a_refusal_is_exit_code_1_with_the_reason(
    environ: dict[str, str], registry: Registry
) -> None:
    registry.refuses = True
    done = platformctl(environ, "push", registry.address, "train", "--tag", "t1")
    assert done.returncode == 1
    assert re.search("403|denied|forbidden", done.stderr, re.IGNORECASE)
    assert platformctl(environ, "digest").returncode == 2


def test_an_absent_registry_is_exit_code_75(environ: dict[str, str], registry: Registry) -> None:
    registry.shutdown()
    registry.server_close()
    done = platformctl(environ, "push", registry.address, "train", "--tag", "t1")
    assert done.returncode == 75, done.stderr
    assert "connection refused" in done.stderr


def test_an_image_that_was_not_built_is_exit_code_2(
    environ: dict[str, str], registry: Registry
) -> None:
    done = platformctl(environ, "push", registry.address, "base", "--tag", "t1")
    assert done.returncode == 2
    assert "platformctl images build base --tag t1" in done.stderr
