"""Secrets in a folder under a key that is kept elsewhere, so that a copy of the folder alone opens none of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from privacy.files import KeyFileError, erase, read_secret, write_secret

_NONCE_BYTES = 12  # drawn afresh for each file that is written: a folder has few of them


@dataclass(frozen=True)
class LockedFiles:
    """Files that are encrypted, each bound to its name.

    Attributes:
        folder: where they lie.
        key: 32 bytes, which lie elsewhere.
    """

    folder: Path
    key: bytes = field(repr=False)

    def write(self, name: str, secret: bytes) -> None:
        """Keep a secret, in place of one that has this name."""
        nonce = os.urandom(_NONCE_BYTES)
        box = ChaCha20Poly1305(self.key).encrypt(nonce, secret, name.encode())
        write_secret(self.folder / name, nonce + box, replace=True)

    def read(self, name: str) -> bytes:
        """The secret of a name.

        Raises:
            KeyFileError: there is none, or it was kept under another key.
        """
        data = read_secret(self.folder / name)
        try:
            return ChaCha20Poly1305(self.key).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError):
            raise KeyFileError(
                f"{self.folder / name}: opens under the privacy account and the identity alone that it was kept under: "
                "go on where those are, or start a new run"
            ) from None

    def erase(self, name: str) -> None:
        """Remove a secret; nothing where there is none."""
        erase(self.folder / name)

    def names(self, pattern: str) -> list[str]:
        """Names of what is there, by a glob pattern."""
        return sorted(path.name for path in self.folder.glob(pattern))
