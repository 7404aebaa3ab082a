"""The aggregator of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fedmm_secure.config import Config
from fedmm_secure.errors import ConfigError
from fedmm_secure.guarantee.head_sums import head_bound, head_length
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.guarantee.shared_noise import shared_noise
from fedmm_secure.guarantee.shared_sums import shared_sums
from fedmm_secure.guarantee.stages import HEAD
from privacy.accounting.lines import canonical_json
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
from privacy.aggregation.bundle import Bundle
from privacy.aggregation.kinds import TRAITS
from privacy.aggregation.limbs import LimbCarrier
from privacy.aggregation.masking import mask_bits, sum_bits

MOST_LIMBS = 3


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
        wide: by stage, values of an update that is no codebook: sums over a shared catalogue, and of a head.
        wide_bound: largest absolute value of those, where they are exact.
        stage: whose updates this is the plan of; empty for the codebook's.
    """

    kind: str
    length: int
    cohort: int
    codec: FixedPointCodec
    norm: float | None = None
    sum_bound: int | None = None
    colluders: int = 0
    wide: Mapping[str, int] = field(default_factory=dict)
    wide_bound: int = 0
    stage: str = ""

    @classmethod
    def of(cls, config: Config, sizes: Mapping[str, MarketSize]) -> AggregationPlan:
        """The plan of a configuration for markets of these public sizes.

        Raises:
            ConfigError: no parameters are exact and secure, or they depend on a size that is not known.
        """
        length, n_markets = config.quantizer.global_codes * config.quantizer.latent_dim, len(sizes)
        codec = FixedPointCodec(config.aggregation.clip, config.aggregation.bits)
        noise, sums = shared_noise(config, sizes), shared_sums(config, sizes)
        bounds = [] if noise is None else [noise.bound]
        bounds += [sums.sum_bound] if sums is not None and sums.private else []
        sum_bound = max(*bounds, n_markets * 2**codec.bits) if bounds else None
        wide = {} if sums is None else sums.lengths
        wide_bounds = [] if sums is None or sums.private else [sums.value_bound]
        if config.head.trees:
            wide, wide_bounds = {**wide, HEAD: head_length(config)}, [*wide_bounds, head_bound(config, sizes)]
        plan = cls(
            config.aggregation.kind,
            length,
            n_markets,
            codec,
            config.aggregation.norm,
            sum_bound,
            config.privacy.colluding_markets,
            wide,
            max(wide_bounds, default=0),
        )
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
            fields.get("wide", {}),
            fields.get("wide_bound", 0),
        )

    def of_stage(self, stage: str) -> AggregationPlan:
        """How a stage's updates travel: under the same keys, whatever their length."""
        return replace(self, stage=stage, norm=None) if stage in self.wide else self

    @property
    def mask_bits(self) -> int:
        """Masked values are residues modulo 2 to this."""
        return mask_bits(self.cohort, self.value_bound) if self.sum_bound is None else sum_bits(self.sum_bound)

    @property
    def value_bound(self) -> int:
        """Largest absolute value of an update, in units."""
        return max(int(2**self.codec.bits), self.wide_bound)

    @property
    def largest_sum(self) -> int:
        """What no sum exceeds in absolute value."""
        return self.cohort * self.value_bound if self.sum_bound is None else self.sum_bound

    @property
    def masked(self) -> bool:
        """Whether single updates are hidden from who can open sums."""
        return TRAITS[self.kind].hides_single_updates

    @property
    def tag_values(self) -> int:
        """Values behind an update, which hold its tag."""
        return limb_count(self.codec.bits)

    @property
    def values(self) -> int:
        """Values of an update."""
        return self.wide[self.stage] if self.stage else self.length

    @property
    def carried(self) -> int:
        """Values that travel."""
        return self.values + self.tag_values

    @property
    def limbs(self) -> int:
        """Integers that each of them travels as: one, unless sums would leave what is exact."""
        return self._fitting[0]

    @property
    def parameters(self) -> CKKSParameters | None:
        """Encryption parameters; None for ``plaintext``.

        One key serves all stages: parameters are those of the codebook's updates, and bound values and cohort; a longer
        vector takes more ciphertexts.
        """
        limbs, found = self._fitting
        return found if found is None or not self.stage else replace(found, length=limbs * self.carried)

    @cached_property
    def _fitting(self) -> tuple[int, CKKSParameters | None]:
        if TRAITS[self.kind].server_reads_updates:
            return 1, None
        length = self.length + self.tag_values
        for limbs in range(1, MOST_LIMBS if self.wide else 1):
            try:
                return limbs, self._derived(length, limbs)
            except AggregationError:
                continue
        limbs = MOST_LIMBS if self.wide else 1
        return limbs, self._derived(length, limbs)

    def _derived(self, length: int, limbs: int) -> CKKSParameters:
        if self.masked:
            return masked_parameters(
                length=limbs * length, cohort=self.cohort, bits=self._limb_bits(limbs) + (limbs > 1)
            )
        bound = self.value_bound if limbs == 1 else 2 ** self._limb_bits(limbs)
        return CKKSParameters.derive(length=limbs * length, cohort=self.cohort, value_bound=bound)

    def _limb_bits(self, limbs: int) -> int:
        bits = self.mask_bits if self.masked else self.value_bound.bit_length() + 1
        return -(-bits // limbs)

    def public(self) -> dict[str, Any]:
        """The part of a bundle that all parties check against their own configuration."""
        fields: dict[str, Any] = {"kind": self.kind, "length": self.length, "cohort": self.cohort, "norm": self.norm}
        fields |= {"colluders": self.colluders, **asdict(self.codec)}
        if self.sum_bound is not None:
            fields["sum_bound"] = self.sum_bound
        if self.wide:
            fields |= {"wide": dict(self.wide), "wide_bound": self.wide_bound}
        return fields | ({"ckks": asdict(self.parameters)} if self.parameters else {})

    def generate_key(self) -> SharedKey:
        """A fresh key that all markets share."""
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
        tags = SumTags(key.tag, self.values, self.codec.bits)
        authenticated = AuthenticatedMarket(self._carrier(key), tags, masks)
        if not self.masked:
            return authenticated
        bound = self.value_bound if self.sum_bound is None else None
        return MaskedMarket(authenticated, masks, bits=self.mask_bits, value_bound=bound)

    def _carrier(self, key: SharedKey) -> Carrier:
        if self.parameters is None:
            return PlaintextMarket(self.carried)
        if key.ckks is None:
            raise AggregationError(f"the shared key has no part that encrypts, which {self.kind} needs")
        carrier = CKKSMarket(self.parameters, key.ckks)
        return (
            carrier if self.limbs == 1 else LimbCarrier(carrier, self.carried, self.limbs, self._limb_bits(self.limbs))
        )


def check_bundle(bundle: Bundle, plan: AggregationPlan, where: Path) -> None:
    """Raises ``ConfigError`` unless a bundle was made for this configuration, and says nothing else of it."""
    public: Mapping[str, Any] = plan.public()
    for name in sorted(public.keys() | bundle.aggregation.keys()):
        wanted, found = ({key: part[key] for key in part if key == name} for part in (public, bundle.aggregation))
        if canonical_json(wanted) != canonical_json(found):  # an empty field is one, and 1.0 another spelling than 1
            raise ConfigError(
                f"{where}: the keys were made for aggregation.{name:.100} = {found.get(name)!r:.200}, the "
                f"configuration says {wanted.get(name)!r}; make new keys, or use the configuration they are for"
            )
