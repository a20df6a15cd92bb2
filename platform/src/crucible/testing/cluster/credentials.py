"""A certificate authority that lives as long as the cluster, and kubeconfigs made from it."""

from __future__ import annotations

import base64
import datetime
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

_LIFETIME = datetime.timedelta(days=30)
_ALLOWED_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Signs for servers, users and service accounts of one cluster."""

    def __init__(self, folder: Path, server: str) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self._folder = folder
        self._server = server
        folder.mkdir()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("crucible-test-cluster", ())
        self.certificate = folder / "ca.crt"
        self.key = folder / "ca.key"
        own = _sign(self._name, self._key.public_key(), self._name, self._key, ca=True)
        _write(Identity(self.certificate, self.key), own, self._key)

    def issue(self, name: str, groups: Iterable[str] = (), hosts: Iterable[str] = ()) -> Identity:
        """A certificate for user ``name`` in ``groups``, good for serving at ``hosts``."""
        from cryptography.hazmat.primitives.asymmetric import ec

        stem = name.replace(":", "-").replace("/", "-")
        identity = Identity(self._folder / f"{stem}.crt", self._folder / f"{stem}.key")
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name, groups)
        signed = _sign(subject, key.public_key(), self._name, self._key, hosts=tuple(hosts))
        _write(identity, signed, key)
        return identity

    def write_kubeconfig(self, path: Path, name: str, groups: Iterable[str] = ()) -> Path:
        """A kubeconfig with a fresh certificate for a user; returns ``path``."""
        identity = self.issue(name, groups)
        user = {
            "client-certificate-data": _encoded(identity.certificate),
            "client-key-data": _encoded(identity.key),
        }
        return write_kubeconfig(path, self._server, _encoded(self.certificate), user)


def write_kubeconfig(
    path: Path, server: str, authority: str, user: dict[str, str], namespace: str = "default"
) -> Path:
    """One cluster, one user, one context, readable by the owner only; returns ``path``.

    ``authority`` is the certificate of the cluster's authority in base64, ``user`` the kubeconfig's
    entry of that name: a token, or a certificate and key.
    """
    import yaml

    cluster = {"server": server, "certificate-authority-data": authority}
    context = {"cluster": "crucible", "user": "user", "namespace": namespace}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "crucible", "cluster": cluster}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "crucible", "context": context}],
        "current-context": "crucible",
    }
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))
    return path


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _name(common: str, organisations: Iterable[str]) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organisations]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _sign(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    hosts: tuple[str, ...] = (),
    ca: bool = False,
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(issuer, subject, public_key, x509.random_serial_number())
        .not_valid_before(now - _ALLOWED_SKEW)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if hosts:
        names = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    if not ca:
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _alternative(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(
    identity: Identity, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    from cryptography.hazmat.primitives import serialization

    pem = serialization.Encoding.PEM
    identity.certificate.write_bytes(certificate.public_bytes(pem))
    identity.key.touch(mode=0o600)
    identity.key.write_bytes(
        key.private_bytes(
            pem,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
