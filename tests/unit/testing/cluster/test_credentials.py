"""Certificates and kubeconfigs say who somebody is, and are signed."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from crucible.testing.cluster.credentials import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki", "https://198.18.0.2:6443")


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_certificate_names_user_and_groups_and_is_signed(authority: Authority) -> None:
    certificate = load(authority.issue("system:node:node", ["system:nodes"]).certificate)
    certificate.verify_directly_issued_by(load(authority.certificate))
    values = {part.oid: part.value for part in certificate.subject}
    assert values == {
        NameOID.COMMON_NAME: "system:node:node",
        NameOID.ORGANIZATION_NAME: "system:nodes",
    }


def test_a_server_s_certificate_names_its_hosts(authority: Authority) -> None:
    certificate = load(authority.issue("servers", hosts=["localhost", "198.18.0.2"]).certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["198.18.0.2"]


def test_a_kubeconfig_stands_alone_and_is_the_owner_s(authority: Authority, tmp_path: Path) -> None:
    path = authority.write_kubeconfig(tmp_path / "config", "ada", ["researchers"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    document = yaml.safe_load(path.read_text())
    [cluster] = document["clusters"]
    assert cluster["cluster"]["server"] == "https://198.18.0.2:6443"
    sent = base64.b64decode(cluster["cluster"]["certificate-authority-data"])
    assert sent == authority.certificate.read_bytes()
    [user] = document["users"]
    certificate = base64.b64decode(user["user"]["client-certificate-data"])
    x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(
        x509.load_pem_x509_certificate(sent)
    )
