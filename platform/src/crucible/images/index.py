"""How a build reaches the package index: as the user's own clients do.

A build has none of the user's files and variables, so what they say is handed to it as secrets:
the address may carry a password, and none of it belongs into a layer.
"""

from __future__ import annotations

import configparser
import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

_INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
_SYSTEM_CONFIG = Path("/etc/pip.conf")


@contextlib.contextmanager
def index_secrets(environ: Mapping[str, str]) -> Iterator[dict[str, Path]]:
    """Files by the name that the Containerfile has for them; they vanish with the block.

    ``index`` is the address of the index, ``ca`` the certificates that its address is checked with,
    ``netrc`` the user's passwords. What is not set is left out, and the plain index is used.
    """
    config = _pip_config(environ)
    secrets: dict[str, Path] = {}
    address = _first(environ, _INDEX_VARIABLES) or config.get("index-url")
    certificates = _first(environ, _CERTIFICATE_VARIABLES) or config.get("cert")
    netrc = environ.get("NETRC") or str(Path(environ.get("HOME", "/")) / ".netrc")
    for name, path in (("ca", certificates), ("netrc", netrc)):
        if path and Path(path).is_file():
            secrets[name] = Path(path).resolve()
    with tempfile.TemporaryDirectory(prefix="crucible-index-") as folder:
        if address:
            secrets["index"] = Path(folder) / "index"
            secrets["index"].touch(0o600)
            secrets["index"].write_text(address, encoding="utf-8")
        yield secrets


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((environ[name] for name in names if environ.get(name)), None)


def _pip_config(environ: Mapping[str, str]) -> dict[str, str]:
    """The section ``global`` of pip's configuration: of the system, then of the user."""
    home = Path(environ.get("HOME", "/"))
    base = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = [_SYSTEM_CONFIG, home / ".pip" / "pip.conf", base / "pip" / "pip.conf"]
    if environ.get("PIP_CONFIG_FILE"):
        files = [Path(environ["PIP_CONFIG_FILE"])]
    parser = configparser.RawConfigParser(strict=False)
    with contextlib.suppress(configparser.Error):
        parser.read(files)
    return dict(parser["global"]) if parser.has_section("global") else {}
