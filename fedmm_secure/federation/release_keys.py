"""Keys of the randomness of releases in hand: on the disk before their charge, and gone once they are sealed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fedmm_secure.errors import LostResultError
from fedmm_secure.federation.noise_chain import NoiseChain
from fedmm_secure.guarantee.releases import Release
from privacy.accounting.ledger import Charge, Ledger
from privacy.files import erase, read_secret, write_secret
from privacy.mechanisms.randomness import KEY_BYTES, NoiseSource


class ReleaseKeys:
    """Makes, keeps and erases the keys of one market's releases.

    Args:
        market: its name.
        directory: where keys in hand are kept.
        noise_seed: for tests: keys follow from it, which is unfit for compliance.
        chain: for a run that an auditor replays: keys follow from both sides' coins. By default each is fresh.
    """

    def __init__(
        self, market: str, directory: Path, noise_seed: int | None = None, chain: NoiseChain | None = None
    ) -> None:
        self._market, self._directory = market, directory
        self._noise_seed, self._chain = noise_seed, chain

    @property
    def seeded(self) -> bool:
        """Whether keys follow from a seed."""
        return self._noise_seed is not None

    def make(self, release: Release, ledger: Ledger) -> bytes | None:
        """A key of its own for what is about to be charged; None where it draws nothing."""
        if not release.draws:
            return None
        if self._chain is not None:
            key = self._chain.key(release.place)
        elif self._noise_seed is not None:
            seeded = NoiseSource.from_seed(self._noise_seed)
            drawn = sum(charge.entry.identity == release.identity for charge in ledger.charges)  # and given up
            again = (str(drawn),) if drawn else ()
            key = seeded.derive(self._market, *map(str, release.identity), *again).words(KEY_BYTES // 8).tobytes()
        else:
            key = NoiseSource.from_entropy().words(KEY_BYTES // 8).tobytes()
        write_secret(self._path(hashlib.sha256(key).hexdigest()), key, replace=True)
        return key

    def charged(self, charge: Charge) -> None:
        """A charge is in the ledger: what its key followed from goes."""
        if self._chain is not None and charge.key:
            self._chain.leave((charge.entry.stage, charge.entry.round))

    def of(self, charge: Charge, ledger: Path) -> bytes | None:
        """The key of a charge; None where it draws nothing. What it followed from goes, if a kill left it.

        Raises:
            LostResultError: it is gone.
        """
        if not charge.key:
            return None
        path = self._path(charge.key)
        key = read_secret(path) if path.exists() else b""
        if hashlib.sha256(key).hexdigest() != charge.key:
            raise LostResultError(
                f"{path}: the key that line {charge.line} of {ledger} was charged for is gone; what it would draw "
                "cannot be drawn again: restore it, or start a new run"
            )
        self.charged(charge)
        return key

    def erase(self, charge: Charge) -> None:
        """The charge is sealed, or given up."""
        erase(self._path(charge.key))

    def erase_all(self) -> None:
        """The run is over; what was charged and never finished is not drawn any more."""
        for path in self._directory.glob("*.key"):
            erase(path)

    def _path(self, digest: str) -> Path:
        """A key's file has its hash for a name: that of one charge never takes the place of another's."""
        return self._directory / f"{digest[:32]}.key"
