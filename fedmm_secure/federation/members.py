"""The markets of a federation: their key directories, and the keys of one that runs in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.guarantee.multipliers import MarketSize
from privacy.aggregation import MarketAggregator, PairwiseMasks
from privacy.aggregation.base import Binding, IntVector
from privacy.aggregation.bundle import BUNDLE_FILE, SERVER, Bundle, found_federation
from privacy.aggregation.identities import IDENTITY_FILE, Identity
from privacy.aggregation.keys import KeyDirectory
from privacy.files import KeyFileError, read_secret, write_secret


@dataclass(frozen=True)
class Membership:
    """One market's place in a federation: its key directory, opened."""

    directory: KeyDirectory
    identity: Identity

    @property
    def bundle(self) -> Bundle:
        """The one on the disk; a run keeps the one that it began with."""
        return self.directory.bundle()


@dataclass(frozen=True)
class MeteredMarket:
    """Counts each protected vector against what the key may protect, and asks each time whether it may still be used.

    Runs that are open at the same time share a key: what burns it in one ends the others.

    Attributes:
        inner: protects and reveals.
        directory: of the market's keys.
        bundle: of the run, whose key it is.
    """

    inner: MarketAggregator
    directory: KeyDirectory
    bundle: Bundle

    def ready(self, cohort: tuple[str, ...]) -> None:
        """Raises ``KeyBurnedError`` or ``KeyExhaustedError`` before anything is computed, and what the protection
        itself raises.
        """
        self.directory.refuse_burned(self.bundle)
        self.directory.check_allowance(self.bundle, 1)
        self.inner.ready(cohort)

    def protect(self, values: IntVector, binding: Binding) -> bytes:
        """Count one more use of the key, then protect; raises ``KeyBurnedError`` or ``KeyExhaustedError``."""
        self.directory.refuse_burned(self.bundle)
        self.directory.use(self.bundle)
        return self.inner.protect(values, binding)

    def reveal(self, aggregate: bytes, binding: Binding) -> IntVector:
        """Open a sum; raises ``KeyBurnedError``."""
        self.directory.refuse_burned(self.bundle)
        return self.inner.reveal(aggregate, binding)


def local_ceremony(
    plan: AggregationPlan,
    directories: Mapping[str, Path],
    rotate_after: int | None,
    sizes: Mapping[str, MarketSize],
) -> tuple[dict[str, Membership], Identity]:
    """Keys of all parties, made once by one hand: the memberships of the markets, and the server's identity.

    Args:
        plan: what the keys are for.
        directories: key directory of each market, and of the server.
        rotate_after: rounds that the shared key may protect.
        sizes: public sizes of the markets.
    """
    keys = {name: KeyDirectory(path) for name, path in directories.items()}
    markets = sorted(keys.keys() - {SERVER})
    identities = {name: _identity(directory, name) for name, directory in keys.items()}
    if not (keys[SERVER].path / BUNDLE_FILE).exists():
        founder = identities[markets[0]]
        others = {name: identity.card for name, identity in identities.items() if name != markets[0]}
        key = plan.generate_key()
        stated = {name: (size.users, size.items) for name, size in sizes.items()}
        bundle, sealed = found_federation(founder, others, plan.public(), key, rotate_after=rotate_after, sizes=stated)
        for name in (*markets, SERVER):  # the server last: its bundle says that all is there
            (keys[name].path / BUNDLE_FILE).unlink(missing_ok=True)
            keys[name].accept(identities[name], bundle, sealed.get(name, b""))
    return {name: Membership(keys[name], identities[name]) for name in markets}, identities[SERVER]


def _identity(keys: KeyDirectory, name: str) -> Identity:
    """A new identity, or the one that is there already."""
    if not keys.has_identity:
        (keys.path / IDENTITY_FILE).unlink(missing_ok=True)  # killed before its card was there: nobody knows it
        Identity.generate(name).save(keys.path)
    return keys.identity()


def load_masks(
    market: str, path: Path, used: Sequence[tuple[str, str, int, int]], known: bytes | None = None
) -> PairwiseMasks:
    """A market's mask key of a run, made once, and the attempts that its ledger says were masked with it.

    Args:
        market: its name.
        path: of the key.
        used: attempts.
        known: the public key that others know it by. Under another one no tag is right: an honest sum would pass for a
            forged one, and burn the shared key.

    Raises:
        KeyFileError: the key is gone, or another one than is known.
    """
    if not path.exists() and known is None:
        write_secret(path, X25519PrivateKey.generate().private_bytes_raw())
    masks = PairwiseMasks(market, X25519PrivateKey.from_private_bytes(read_secret(path)), sent=frozenset(used))
    if known not in (None, masks.public):
        raise KeyFileError(f"{path}: is not the mask key with which market {market} began this run; restore it")
    return masks
