"""The aggregator of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedmm_secure.config import Config
from fedmm_secure.errors import ConfigError
from fedmm_secure.guarantee.shared_noise import SharedNoise
from privacy.aggregation import (
    AggregationError,
    AuthenticatedMarket,
    Carrier,
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
    SharedKey,
    SumTags,
    masked_parameters,
)
from privacy.aggregation.authentication import limb_count
from privacy.aggregation.keys import Bundle
from privacy.aggregation.kinds import TRAITS
from privacy.aggregation.masking import mask_bits, sum_bits


@dataclass(frozen=True)
class AggregationPlan:
    """What a configuration and a number of markets mean for the aggregator.

    Attributes:
        kind: ``plaintext``, ``ckks`` or ``masked-ckks``.
        length: values of an update, all global codewords.
        cohort: markets of the federation.
        codec: fixed-point format.
        norm: largest Euclidean norm of an update, None where nothing bounds it.
        sum_bound: where only the sum carries the noise, its range: updates wrap around it and are clipped nowhere.
        colluders: markets that may collude with each other and the server.
    """

    kind: str
    length: int
    cohort: int
    codec: FixedPointCodec
    norm: float | None = None
    sum_bound: int | None = None
    colluders: int = 0

    @classmethod
    def of(cls, config: Config, n_markets: int, shared: SharedNoise | None = None) -> AggregationPlan:
        """The plan of a configuration; ``shared`` where noise is distributed.

        Raises:
            ConfigError: no parameters are exact and secure.
        """
        length = config.quantizer.global_codes * config.quantizer.latent_dim
        codec = FixedPointCodec(config.aggregation.clip, config.aggregation.bits)
        sum_bound = None if shared is None else max(shared.bound, n_markets * 2**codec.bits)
        norm, colluders = config.aggregation.norm, config.privacy.colluding_markets
        plan = cls(config.aggregation.kind, length, n_markets, codec, norm, sum_bound, colluders)
        try:
            plan.parameters  # noqa: B018 - derived now, so that it is refused now
        except AggregationError as error:
            raise ConfigError(f"aggregation: {error}") from error
        return plan

    @classmethod
    def from_public(cls, fields: Mapping[str, Any]) -> AggregationPlan:
        """The plan that a bundle was made for."""
        codec = FixedPointCodec(fields["clip"], fields["bits"])
        return cls(
            fields["kind"],
            fields["length"],
            fields["cohort"],
            codec,
            fields["norm"],
            fields.get("sum_bound"),
            fields["colluders"],
        )

    @property
    def mask_bits(self) -> int:
        """Masked values are residues modulo 2 to this."""
        return mask_bits(self.cohort, self.value_bound) if self.sum_bound is None else sum_bits(self.sum_bound)

    @property
    def value_bound(self) -> int:
        return int(2**self.codec.bits)

    @property
    def masked(self) -> bool:
        return TRAITS[self.kind].hides_single_updates

    @property
    def tag_values(self) -> int:
        """Values behind an update, which hold its tag."""
        return limb_count(self.codec.bits)

    @property
    def carried(self) -> int:
        """Values that travel."""
        return self.length + self.tag_values

    @cached_property
    def parameters(self) -> CKKSParameters | None:
        """Encryption parameters; None for ``plaintext``."""
        if TRAITS[self.kind].server_reads_updates:
            return None
        if self.masked:
            return masked_parameters(length=self.carried, cohort=self.cohort, bits=self.mask_bits)
        return CKKSParameters.derive(length=self.carried, cohort=self.cohort, value_bound=self.value_bound)

    def public(self) -> dict[str, Any]:
        """The part of a bundle that all parties check against their own configuration."""
        fields: dict[str, Any] = {"kind": self.kind, "length": self.length, "cohort": self.cohort, "norm": self.norm}
        fields |= {"colluders": self.colluders, **asdict(self.codec)}
        if self.sum_bound is not None:
            fields["sum_bound"] = self.sum_bound
        return fields | ({"ckks": asdict(self.parameters)} if self.parameters else {})

    def generate_key(self) -> SharedKey:
        return SharedKey.generate(self.parameters)

    def server(self) -> ServerAggregator:
        """The server's side, from public material alone."""
        if self.parameters is None:
            bound = None if self.norm is None else self.norm * self.codec.scale
            return PlaintextServer(self.carried, self.value_bound, bound, self.tag_values)
        return CKKSServer(self.parameters)

    def market(self, key: SharedKey, masks: PairwiseMasks) -> MarketAggregator:
        """A market's side.

        Raises:
            AggregationError: the shared key lacks the encryption key, or it is one of other parameters.
        """
        authenticated = AuthenticatedMarket(self._carrier(key), SumTags(key.tag, self.length, self.codec.bits), masks)
        if not self.masked:
            return authenticated
        bound = self.value_bound if self.sum_bound is None else None
        return MaskedMarket(authenticated, masks, bits=self.mask_bits, value_bound=bound)

    def _carrier(self, key: SharedKey) -> Carrier:
        if self.parameters is None:
            return PlaintextMarket(self.carried)
        if key.ckks is None:
            raise AggregationError(f"the shared key has no part that encrypts, which {self.kind} needs")
        return CKKSMarket(self.parameters, key.ckks)


def check_bundle(bundle: Bundle, plan: AggregationPlan, where: Path) -> None:
    """Raises ``ConfigError`` unless a bundle was made for this configuration."""
    public: Mapping[str, Any] = plan.public()
    for field in sorted(public.keys() | bundle.aggregation.keys()):
        if public.get(field) != bundle.aggregation.get(field):
            raise ConfigError(
                f"{where}: the keys were made for aggregation.{field} = {bundle.aggregation.get(field)!r}, the "
                f"configuration says {public.get(field)!r}; make new keys, or use the configuration they are for"
            )
