"""Public keys of X25519 that somebody else made."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

_ANY = X25519PrivateKey.generate()


def is_usable(key: bytes) -> bool:
    """Whether a public key leads to a secret.

    One of low order gives all zeros with every private key, and any other one with none: private keys are multiples of
    the cofactor, and less than that times the order of the group (RFC 7748, sections 5 and 6.1). So any one tells.
    """
    try:
        _ANY.exchange(X25519PublicKey.from_public_bytes(key))
    except ValueError:
        return False
    return True
