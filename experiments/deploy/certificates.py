"""TLS certificates of a federation, and keys by which the SuperLink knows its SuperNodes."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privacy.files import write_secret

CA_CERTIFICATE, SERVER_CERTIFICATE, SERVER_KEY = "ca.crt", "server.crt", "server.key"
NODE_KEY, NODE_PUBLIC_KEY = "node.key", "node.pub"
_CLOCK_SKEW = timedelta(minutes=5)


def make_certificates(directory: Path, hosts: Sequence[str], days: int = 365) -> None:
    """An authority of this federation alone, and a certificate of the SuperLink for ``hosts`` (names or addresses).

    The authority's key is used once and not kept: to renew, make all certificates again and hand out ``ca.crt``.
    """
    now = datetime.now(UTC)
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _name("fedmm federation")
    builder = x509.CertificateBuilder().not_valid_before(now - _CLOCK_SKEW).not_valid_after(now + timedelta(days=days))
    authority = (
        builder.subject_name(issuer)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .public_key(authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .add_extension(_usage(signs=True), critical=True)
        .sign(authority_key, SHA256())
    )
    server = (
        builder.subject_name(_name("fedmm superlink"))
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .public_key(server_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .add_extension(_usage(signs=False), critical=True)
        .sign(authority_key, SHA256())
    )
    private = server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_secret(directory / SERVER_KEY, private, replace=True)
    (directory / CA_CERTIFICATE).write_bytes(authority.public_bytes(Encoding.PEM))
    (directory / SERVER_CERTIFICATE).write_bytes(server.public_bytes(Encoding.PEM))


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
