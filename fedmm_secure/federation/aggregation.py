"""The aggregator of a configuration, and the keys of a federation that runs in one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedmm_secure.config import Config
from fedmm_secure.errors import ConfigError
from privacy.aggregation import (
    AggregationError,
    CKKSKey,
    CKKSMarket,
    CKKSParameters,
    CKKSServer,
    FixedPointCodec,
    MarketAggregator,
    MaskedMarket,
    PairwiseMasks,
    PlaintextMarket,
    PlaintextServer,
    ServerAggregator,
    masked_parameters,
)
from privacy.aggregation.base import Binding, IntVector
from privacy.aggregation.identities import Identity
from privacy.aggregation.keys import BUNDLE_FILE, SERVER, Bundle, KeyDirectory, found_federation
from privacy.aggregation.masking import mask_bits
from privacy.files import read_secret, write_secret


@dataclass(frozen=True)
class AggregationPlan:
    """What a configuration and a number of markets mean for the aggregator.

    Attributes:
        kind: ``plaintext``, ``ckks`` or ``masked-ckks``.
        length: values of an update, all global codewords.
        cohort: markets of the federation.
        codec: fixed-point format.
        norm: largest Euclidean norm of an update, None where nothing bounds it.
    """

    kind: str
    length: int
    cohort: int
    codec: FixedPointCodec
    norm: float | None = None

    @classmethod
    def of(cls, config: Config, n_markets: int) -> AggregationPlan:
        """Raises ``ConfigError`` where no parameters are exact and secure."""
        length = config.quantizer.global_codes * config.quantizer.latent_dim
        codec = FixedPointCodec(config.aggregation.clip, config.aggregation.bits)
        plan = cls(config.aggregation.kind, length, n_markets, codec, config.aggregation.norm)
        try:
            plan.parameters  # noqa: B018 - derived now, so that it is refused now
        except AggregationError as error:
            raise ConfigError(f"aggregation: {error}") from error
        return plan

    @classmethod
    def from_public(cls, fields: Mapping[str, Any]) -> AggregationPlan:
        """The plan that a bundle was made for."""
        codec = FixedPointCodec(fields["clip"], fields["bits"])
        return cls(fields["kind"], fields["length"], fields["cohort"], codec, fields["norm"])

    @property
    def mask_bits(self) -> int:
        """Masked values are residues modulo 2 to this."""
        return mask_bits(self.cohort, self.value_bound)

    @property
    def value_bound(self) -> int:
        return int(2**self.codec.bits)

    @property
    def masked(self) -> bool:
        return self.kind == "masked-ckks"

    @cached_property
    def parameters(self) -> CKKSParameters | None:
        """Encryption parameters; None for ``plaintext``."""
        if self.kind == "plaintext":
            return None
        derive = masked_parameters if self.masked else CKKSParameters.derive
        return derive(length=self.length, cohort=self.cohort, value_bound=self.value_bound)

    def public(self) -> dict[str, Any]:
        """The part of a bundle that all parties check against their own configuration."""
        fields: dict[str, Any] = {"kind": self.kind, "length": self.length, "cohort": self.cohort, "norm": self.norm}
        fields |= asdict(self.codec)
        return fields | ({"ckks": asdict(self.parameters)} if self.parameters else {})

    def generate_key(self) -> CKKSKey | None:
        return CKKSKey.generate(self.parameters) if self.parameters else None

    def server(self) -> ServerAggregator:
        """The server's side, from public material alone."""
        if self.parameters is None:
            bound = None if self.norm is None else self.norm * self.codec.scale
            return PlaintextServer(self.length, self.value_bound, bound)
        return CKKSServer(self.parameters, needs_whole_cohort=self.masked)

    def market(self, key: CKKSKey | None, masks: PairwiseMasks) -> MarketAggregator:
        """A market's side."""
        if self.parameters is None or key is None:
            return PlaintextMarket(self.length)
        if self.masked:
            return MaskedMarket(self.parameters, key, masks, value_bound=self.value_bound, cohort=self.cohort)
        return CKKSMarket(self.parameters, key)


@dataclass(frozen=True)
class Membership:
    """One market's place in a federation: its key directory, opened."""

    directory: KeyDirectory
    identity: Identity

    @property
    def bundle(self) -> Bundle:
        return self.directory.bundle()


@dataclass(frozen=True)
class MeteredMarket:
    """Counts each protected vector against what the key may protect."""

    inner: MarketAggregator
    directory: KeyDirectory

    def protect(self, values: IntVector, binding: Binding) -> bytes:
        self.directory.use()
        return self.inner.protect(values, binding)

    def reveal(self, aggregate: bytes) -> IntVector:
        return self.inner.reveal(aggregate)


def local_ceremony(
    plan: AggregationPlan, directories: Mapping[str, Path], rotate_after: int | None
) -> tuple[dict[str, Membership], Identity]:
    """Keys of all parties, made once by one hand: the memberships of the markets, and the server's identity.

    Args:
        plan: what the keys are for.
        directories: key directory of each market, and of the server.
        rotate_after: rounds that the shared key may protect.
    """
    keys = {name: KeyDirectory(path) for name, path in directories.items()}
    markets = sorted(keys.keys() - {SERVER})
    identities = {name: _identity(directory, name) for name, directory in keys.items()}
    if not (keys[SERVER].path / BUNDLE_FILE).exists():
        founder = identities[markets[0]]
        others = {name: identity.card for name, identity in identities.items() if name != markets[0]}
        key = plan.generate_key()
        bundle, sealed = found_federation(founder, others, plan.public(), key, rotate_after=rotate_after)
        for name in (*markets, SERVER):  # the server last: its bundle says that all is there
            (keys[name].path / BUNDLE_FILE).unlink(missing_ok=True)
            keys[name].accept(identities[name], bundle, sealed.get(name, b""))
    return {name: Membership(keys[name], identities[name]) for name in markets}, identities[SERVER]


def _identity(keys: KeyDirectory, name: str) -> Identity:
    """A new identity, or the one that is there already."""
    if not keys.has_identity:
        Identity.generate(name).save(keys.path)
    return keys.identity()


def load_masks(market: str, path: Path, used: Sequence[tuple[str, str, int, int]]) -> PairwiseMasks:
    """A market's mask key of a run, made once, and the attempts that its ledger says were masked with it."""
    if not path.exists():
        write_secret(path, X25519PrivateKey.generate().private_bytes_raw())
    return PairwiseMasks(market, X25519PrivateKey.from_private_bytes(read_secret(path)), _used=set(used))


def check_bundle(bundle: Bundle, plan: AggregationPlan, where: Path) -> None:
    """Raises ``ConfigError`` unless a bundle was made for this configuration."""
    public: Mapping[str, Any] = plan.public()
    for field in sorted(public.keys() | bundle.aggregation.keys()):
        if public.get(field) != bundle.aggregation.get(field):
            raise ConfigError(
                f"{where}: the keys were made for aggregation.{field} = {bundle.aggregation.get(field)!r}, the "
                f"configuration says {public.get(field)!r}; make new keys, or use the configuration they are for"
            )
