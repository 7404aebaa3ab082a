"""Secrets under a passphrase: scrypt (Percival and Josefsson, RFC 7914), then ChaCha20-Poly1305."""

from __future__ import annotations

import base64
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

_SALT_BYTES = 16
# 128 MiB and a third of a second for each guess. The costs are no field of the file: whoever writes one cannot ask its
# reader for more memory, or a guesser's machine for less
_N, _R, _P = 2**17, 8, 1
_BEGIN, _END = b"-----BEGIN FEDMM SCRYPT-17-8-1 IDENTITY-----\n", b"-----END FEDMM SCRYPT-17-8-1 IDENTITY-----\n"


def is_locked(text: bytes) -> bool:
    """Whether ``text`` is what ``lock`` wrote, damaged or not."""
    return text.startswith(_BEGIN)


def lock(secret: bytes, passphrase: bytes) -> bytes:
    """Armoured text that opens with the passphrase alone."""
    salt = os.urandom(_SALT_BYTES)
    body = base64.encodebytes(salt + _box(passphrase, salt).encrypt(bytes(12), secret, _BEGIN))
    return _BEGIN + body + _END


def unlock(text: bytes, passphrase: bytes) -> bytes:
    """The secret; raises ``ValueError`` on another passphrase or a changed text."""
    if not (text.startswith(_BEGIN) and text.endswith(_END)):
        raise ValueError("not a text under a passphrase")
    data = base64.b64decode(b"".join(text[len(_BEGIN) : -len(_END)].split()), validate=True)
    try:
        return _box(passphrase, data[:_SALT_BYTES]).decrypt(bytes(12), data[_SALT_BYTES:], _BEGIN)
    except InvalidTag:
        raise ValueError("another passphrase, or a changed text") from None


def _box(passphrase: bytes, salt: bytes) -> ChaCha20Poly1305:
    # a fresh salt gives a fresh key, so the nonce may be constant
    return ChaCha20Poly1305(Scrypt(salt=salt, length=32, n=_N, r=_R, p=_P).derive(passphrase))
