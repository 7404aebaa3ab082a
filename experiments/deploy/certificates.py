"""TLS certificates of a federation, and keys by which the SuperLink knows its SuperNodes: a folder for each host.

``DIR/server/`` is for the server's host: the certificate that markets see, and one for the loopback, where the
SuperLink itself listens. ``DIR/<market>/`` is for a market's host: the certificate that lets it through the server's
proxy, one for its own proxy on the loopback, and its SuperNode's key.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmm_secure.errors import ConfigError
from privacy.aggregation.bundle import SERVER
from privacy.files import write_secret

CA_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY = "ca.crt", "server.crt", "server.key"
CLIENT_CERTIFICATE, CLIENT_KEY = "client.crt", "client.key"
LOOPBACK_CA, LOOPBACK_CERTIFICATE, LOOPBACK_KEY = "loopback-ca.crt", "loopback.crt", "loopback.key"
NODE_KEY, NODE_PUBLIC_KEY = "node.key", "node.pub"
# in the server's certificate beside its hosts, since nginx compares names of servers, and not addresses
SERVER_NAME = "fedmm-server"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HOST, _NODE = re.compile(r"[A-Za-z0-9.:-]{1,253}"), re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_CLOCK_SKEW = timedelta(minutes=5)


def make_certificates(directory: Path, hosts: Sequence[str], nodes: Sequence[str], days: int = 365) -> None:
    """An authority of this federation alone, and what each host needs.

    The authority's key is used once and not kept: to renew, or to let a market in or out, make all certificates again.
    SuperNodes' keys that are there already stay, since the SuperLink knows them.

    Args:
        directory: where a folder for each host is made.
        hosts: names or addresses of the server's host.
        nodes: names of markets.
        days: until certificates expire.

    Raises:
        ConfigError: a host or market whose name cannot be one.
    """
    for kind, names, pattern in (("host", hosts, _HOST), ("node", nodes, _NODE)):
        for name in names:
            if not pattern.fullmatch(name) or (kind, name) == ("node", SERVER):
                raise ConfigError(f"--{kind} {name!r}: not a name of a {kind}")
    authority = _Authority("fedmm federation", days)
    server = directory / SERVER
    known = (*hosts, SERVER_NAME)
    authority.issue(SERVER_NAME, ExtendedKeyUsageOID.SERVER_AUTH, known, server, SERVER_CERTIFICATE, SERVER_KEY)
    for node in nodes:
        folder = directory / node
        authority.issue(node, ExtendedKeyUsageOID.CLIENT_AUTH, (), folder, CLIENT_CERTIFICATE, CLIENT_KEY)
        if not (folder / NODE_KEY).exists():
            make_node_key(folder)
    for folder in (server, *(directory / node for node in nodes)):
        authority.write(folder / CA_CERTIFICATE)
        loopback = _Authority("fedmm loopback", days)
        purpose = ExtendedKeyUsageOID.SERVER_AUTH
        loopback.issue("fedmm loopback", purpose, _LOOPBACK, folder, LOOPBACK_CERTIFICATE, LOOPBACK_KEY)
        loopback.write(folder / LOOPBACK_CA)


@dataclass
class _Authority:
    """A self-signed authority, whose key ends with the process."""

    name: str
    days: int

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = (
            self._builder(self.name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(_usage(signs=True), critical=True)
            .sign(self._key, SHA256())
        )

    def issue(
        self,
        subject: str,
        purpose: x509.ObjectIdentifier,
        hosts: Sequence[str],
        folder: Path,
        certificate_file: str,
        key_file: str,
    ) -> None:
        """Write a new key and its certificate, for one purpose: who serves cannot call with it, nor the other way."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            self._builder(subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(issuer_key, critical=False)
            .add_extension(_usage(signs=False), critical=True)
        )
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_secret(folder / key_file, private, replace=True)
        certificate = builder.sign(self._key, SHA256())
        (folder / certificate_file).write_bytes(certificate.public_bytes(Encoding.PEM))

    def write(self, path: Path) -> None:
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def _builder(self, subject: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name(self.name))
        builder = builder.not_valid_before(now - _CLOCK_SKEW).not_valid_after(now + timedelta(days=self.days))
        return builder.serial_number(x509.random_serial_number()).public_key(key)


def make_node_key(directory: Path) -> None:
    """The key of a SuperNode (NIST P-384, as Flower asks for), and the public half to register with the SuperLink."""
    key = ec.generate_private_key(ec.SECP384R1())
    write_secret(directory / NODE_KEY, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    (directory / NODE_PUBLIC_KEY).write_bytes(public)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
