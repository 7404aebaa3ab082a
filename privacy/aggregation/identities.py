"""Who a party is: long-term keys, the card with their public halves, and secrets sealed for its owner."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from privacy.accounting.lines import canonical_json
from privacy.aggregation.exchange import is_usable
from privacy.aggregation.passphrases import is_locked, lock, unlock
from privacy.files import PUBLIC_MODE, KeyFileError, read_secret, write_atomic, write_secret
from privacy.foreign import ForeignFileError, parse_json, read_bytes
from privacy.hexadecimal import bytes_of
from privacy.json_text import json_text
from privacy.names import NAME_RULE, is_name

IDENTITY_FILE, CARD_FILE = "identity.pem", "card.json"
MAX_FILE_BYTES = 2**20
_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----\n", re.DOTALL)


@dataclass(frozen=True)
class Card:
    """The public half of an identity.

    Attributes:
        name: market name, or ``server``.
        signing: Ed25519 public key, hexadecimal.
        sealing: X25519 public key, hexadecimal.
        proof: signature of the rest by ``signing``.
    """

    name: str
    signing: str
    sealing: str
    proof: str

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"a party's name has {NAME_RULE}; {self.name!a:.80} has not")
        for value in (self.signing, self.sealing):
            if len(bytes_of(value)) != 32:
                raise ValueError("a public key has 32 bytes")
        if not is_usable(bytes_of(self.sealing)):
            raise ValueError("nothing can be sealed for this card")
        self.verify(bytes_of(self.proof), _card_text(self.name, self.signing, self.sealing))

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raises ``ValueError`` unless this party signed ``data``."""
        try:
            Ed25519PublicKey.from_public_bytes(bytes_of(self.signing)).verify(signature, data)
        except InvalidSignature:
            raise ValueError(f"not signed by {self.name}") from None

    @property
    def fingerprint(self) -> str:
        """Short hash of name and keys, for people to compare."""
        return fingerprint(_card_text(self.name, self.signing, self.sealing))


@dataclass(frozen=True)
class Identity:
    """A party's long-term keys. ``repr`` shows the card alone."""

    card: Card
    _signing: Ed25519PrivateKey = field(repr=False)
    _sealing: X25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls, name: str) -> Identity:
        """A party of this name with fresh keys."""
        return cls._from_keys(name, Ed25519PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def _from_keys(cls, name: str, signing: Ed25519PrivateKey, sealing: X25519PrivateKey) -> Identity:
        public = signing.public_key().public_bytes_raw().hex(), sealing.public_key().public_bytes_raw().hex()
        proof = signing.sign(_card_text(name, *public)).hex()
        return cls(Card(name, *public, proof), signing, sealing)

    def sign(self, data: bytes) -> bytes:
        """Ed25519 signature, 64 bytes."""
        return self._signing.sign(data)

    def save(self, directory: Path, passphrase: bytes | None = None) -> None:
        """Write ``identity.pem`` and ``card.json``; raises ``KeyFileError`` if there is an identity already."""
        if (directory / IDENTITY_FILE).exists():
            raise KeyFileError(f"{directory}: holds an identity already")
        keys = (self._signing, self._sealing)
        text = b"".join(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) for key in keys)
        write_secret(directory / IDENTITY_FILE, lock(text, passphrase) if passphrase else text)
        write_public(directory / CARD_FILE, asdict(self.card))

    @classmethod
    def load(cls, directory: Path, passphrase: bytes | None = None) -> Identity:
        """Read what ``save`` wrote.

        Raises:
            KeyFileError: no identity, wrong passphrase, or a file that others may read.
        """
        card, path = read_card(directory / CARD_FILE), directory / IDENTITY_FILE
        keys = _PEM.findall(_unlocked(path, passphrase))
        if len(keys) != 2:
            raise KeyFileError(f"{path}: two private keys are expected")
        try:
            signing, sealing = (load_pem_private_key(key, None) for key in keys)
        except (ValueError, TypeError):
            raise KeyFileError(f"{path}: damaged") from None  # the cause could quote key material
        if not isinstance(signing, Ed25519PrivateKey) or not isinstance(sealing, X25519PrivateKey):
            raise KeyFileError(f"{path}: an Ed25519 and an X25519 key are expected")
        found = cls._from_keys(card.name, signing, sealing)
        if found.card != card:
            raise KeyFileError(f"{directory}: {CARD_FILE} does not belong to {IDENTITY_FILE}")
        return found

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """What ``seal`` sealed for this identity; raises ``ValueError`` on anything else."""
        ephemeral, box = sealed[:32], sealed[32:]
        try:
            shared = self._sealing.exchange(X25519PublicKey.from_public_bytes(ephemeral))
            return _box(shared, ephemeral, bytes_of(self.card.sealing)).decrypt(bytes(12), box, context)
        except (InvalidTag, ValueError):
            raise ValueError(f"not sealed for {self.card.name}") from None


def seal(secret: bytes, card: Card, context: bytes) -> bytes:
    """Encrypt for the owner of a card: ephemeral X25519, HKDF, ChaCha20-Poly1305; bound to ``context``."""
    recipient = bytes_of(card.sealing)
    ephemeral = X25519PrivateKey.generate()
    public = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient))
    return public + _box(shared, public, recipient).encrypt(bytes(12), secret, context)


def _box(shared: bytes, ephemeral: bytes, recipient: bytes) -> ChaCha20Poly1305:
    info = b"fedmm-secure seal\0" + ephemeral + recipient
    # the key is used once, so the nonce may be constant
    return ChaCha20Poly1305(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(shared))


def _unlocked(path: Path, passphrase: bytes | None) -> bytes:
    """The text of an identity; raises ``KeyFileError`` unless the passphrase is the right one, or none is needed."""
    text = read_secret(path)
    if b"ENCRYPTED" in text:
        raise KeyFileError(
            f"{path}: an older version locked it, in a way that is too easily guessed at; make a new identity"
        )
    if is_locked(text) != (passphrase is not None):
        raise KeyFileError(f"{path}: {'needs its passphrase' if is_locked(text) else 'has no passphrase; give none'}")
    try:
        return text if passphrase is None else unlock(text, passphrase)
    except ValueError:
        raise KeyFileError(f"{path}: needs the right passphrase, or is damaged") from None


def read_card(path: Path) -> Card:
    """A card whose proof holds, from a file that the caller's own user named; raises ``KeyFileError``."""
    try:
        return Card(**read_public(path))
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{path}: not a valid card: {error}") from error


def _card_text(name: str, signing: str, sealing: str) -> bytes:
    return b"fedmm-secure card\0" + canonical_json({"name": name, "signing": signing, "sealing": sealing})


def fingerprint(text: bytes) -> str:
    """128 bits of a hash in groups that can be read out over the telephone."""
    digest = sha256(text).hexdigest()[:32]
    return " ".join(digest[start : start + 4] for start in range(0, 32, 4))


def write_public(path: Path, fields: Mapping[str, Any]) -> None:
    """JSON that is made to be handed out, and readable by all."""
    write_atomic(path, (json_text(fields, indent=2, sort_keys=True) + "\n").encode(), PUBLIC_MODE)


def read_public(path: Path, below: Path | None = None) -> Any:
    """What ``write_public`` wrote, or somebody else; of a file inside a foreign directory, ``below`` is that.

    Raises:
        KeyFileError: it cannot be read, or is no JSON.
    """
    try:
        return parse_json(read_bytes(path, MAX_FILE_BYTES, below=below), path)
    except ForeignFileError as error:
        raise KeyFileError(str(error)) from error
