"""Keys of the randomness of releases in hand: made before the charge that names their hash, erased after the seal."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fedmm_secure.errors import LostResultError
from fedmm_secure.guarantee.releases import Release
from privacy.accounting.ledger import Charge
from privacy.files import erase, read_secret, write_secret
from privacy.mechanisms.randomness import KEY_BYTES, NoiseSource


def key_digest(key: bytes) -> str:
    """What a charge says of a key."""
    return hashlib.sha256(key).hexdigest()


@dataclass(frozen=True)
class ReleaseKeys:
    """The keys of one market.

    Attributes:
        folder: where they are kept.
        market: whose they are.
        seed: for tests: keys follow from it, which is unfit for compliance.
    """

    folder: Path
    market: str
    seed: int | None

    def make(self, release: Release, drawn: int) -> bytes | None:
        """A fresh key, on the disk before it is charged for; None where a release draws nothing.

        Args:
            release: what it is for.
            drawn: how often it was charged before, under other keys.
        """
        if not release.draws:
            return None
        if self.seed is None:
            source = NoiseSource.from_entropy()
        else:
            again = (str(drawn),) if drawn else ()
            source = NoiseSource.from_seed(self.seed).derive(self.market, *map(str, release.identity), *again)
        key = source.words(KEY_BYTES // 8).tobytes()
        write_secret(self._path(key_digest(key)), key, replace=True)
        return key

    def of(self, charge: Charge, ledger: Path) -> bytes | None:
        """The key that a charge names.

        Raises:
            LostResultError: it is gone.
        """
        if not charge.key:
            return None
        path = self._path(charge.key)
        key = read_secret(path) if path.exists() else b""
        if key_digest(key) != charge.key:
            raise LostResultError(
                f"{path}: the key that line {charge.line} of {ledger} was charged for is gone; what it "
                "would draw cannot be drawn again: restore it, or start a new run"
            )
        return key

    def erase(self, charge: Charge) -> None:
        """Once its result is sealed, or given up."""
        erase(self._path(charge.key))

    def erase_all(self) -> None:
        """Those of what was charged and never finished too."""
        for path in self.folder.glob("*.key"):
            erase(path)

    def _path(self, digest: str) -> Path:
        """A key's file has its hash for a name: that of one charge never takes the place of another's."""
        return self.folder / f"{digest[:32]}.key"
