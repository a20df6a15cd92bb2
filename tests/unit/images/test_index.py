"""What a build is told of the way to the package index."""

from __future__ import annotations

from pathlib import Path

import pytest

from crucible.images.index import index_secrets


def environ(home: Path, **more: str) -> dict[str, str]:
    return {"HOME": str(home), "PIP_CONFIG_FILE": str(home / "pip.conf"), **more}


def test_the_plain_index_needs_nothing(tmp_path: Path) -> None:
    with index_secrets(environ(tmp_path)) as secrets:
        assert secrets == {}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"UV_DEFAULT_INDEX": "one", "PIP_INDEX_URL": "two"}, "one"),
        ({"UV_INDEX_URL": "one"}, "one"),
        ({"UV_DEFAULT_INDEX": "", "PIP_INDEX_URL": "two"}, "two"),
        ({}, "of-pip"),
    ],
)
def test_the_address_is_that_of_the_users_clients(
    tmp_path: Path, variables: dict[str, str], expected: str
) -> None:
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = of-pip\n")
    with index_secrets(environ(tmp_path, **variables)) as secrets:
        path = secrets["index"]
        assert path.read_text() == expected
        assert path.stat().st_mode & 0o077 == 0
    assert not path.exists()


def test_certificates_and_passwords_are_passed_where_they_are(tmp_path: Path) -> None:
    bundle, netrc = tmp_path / "ca.pem", tmp_path / ".netrc"
    bundle.write_text("certificates")
    netrc.write_text("machine a login b password c")
    with index_secrets(environ(tmp_path, SSL_CERT_FILE=str(bundle))) as secrets:
        assert secrets == {"ca": bundle.resolve(), "netrc": netrc.resolve()}
    with index_secrets(environ(tmp_path, SSL_CERT_FILE="/no/such/file")) as secrets:
        assert "ca" not in secrets


def test_a_damaged_pip_configuration_is_pips_to_complain_of(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("no section\n")
    with index_secrets(environ(tmp_path)) as secrets:
        assert secrets == {}
