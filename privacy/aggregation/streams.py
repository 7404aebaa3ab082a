"""Keys and pseudorandom bytes that two parties derive from one secret: HKDF, then ChaCha20."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive_key(secret: bytes, context: bytes) -> bytes:
    """A key of 32 bytes for one use, which ``context`` names."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=context).derive(secret)


def stream(key: bytes, size: int) -> bytes:
    """Pseudorandom bytes. A key is for one stream, so the nonce may be constant."""
    return Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(size))
