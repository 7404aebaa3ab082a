"""The configuration of a run: all sections, and the rules that tie them together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from fedmm_secure.config.audit import AuditConfig
from fedmm_secure.config.base import LARGEST_SEED, Section
from fedmm_secure.config.choices import (
    CODE_GROUPS,
    CODE_LAYERS,
    FIELD_BASELINES,
    MAX_PASSES,
    MAX_STEPS,
    MAX_SUMS,
    MIN_COHORT,
    MODELS,
    NOISY_BASELINES,
    ON_ITEMS,
    PRIVATE_GROUPS,
    SUMS_OF_SHARED_ITEMS,
    CatalogueKind,
    DeviceSetting,
)
from fedmm_secure.config.comparison import EvaluationConfig, FieldConfig
from fedmm_secure.config.privacy import GRAM_LIMIT, PrivacyConfig
from fedmm_secure.config.sections import (
    AggregationConfig,
    CTRConfig,
    DataConfig,
    EmbeddingConfig,
    FederationConfig,
    HeadConfig,
    QuantizerConfig,
)

Seed = Annotated[int, Field(ge=-LARGEST_SEED, le=LARGEST_SEED)]


class Config(Section):
    """Everything that determines a run."""

    seed: tuple[Seed, ...] = Field(
        (0,), min_length=1, max_length=100, description="one repetition of training for each seed"
    )
    device: DeviceSetting = Field(
        "cpu",
        description="where RQ-VAEs and networks train; auto: a GPU where there is one. Released CTR models, trees and "
        "embeddings are computed on the processor",
    )
    workers: int = Field(2, ge=1, le=256, description="markets trained at a time; does not change results")
    data: DataConfig
    embedding: EmbeddingConfig = EmbeddingConfig()
    quantizer: QuantizerConfig = QuantizerConfig()
    federation: FederationConfig = FederationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    aggregation: AggregationConfig = AggregationConfig()
    ctr: CTRConfig = CTRConfig()
    head: HeadConfig = HeadConfig()
    audit: AuditConfig = AuditConfig()
    field: FieldConfig = FieldConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        """One seed stands for a list; with a budget, the defaults are those that keep the guarantee end to end."""
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        if isinstance(values.get("seed"), int):
            values["seed"] = [values["seed"]]
        privacy, data = values.get("privacy"), values.get("data")
        ctr: dict[str, Any] = {}
        if isinstance(privacy, Mapping) and privacy.get("epsilon") is not None:
            _fill(values, "embedding", {"kind": "dp-svd"})
            ctr = PRIVATE_CTR if privacy.get("protect") == "release" else {}
            contribution = privacy.get("contribution")
            dated = isinstance(contribution, Mapping) and contribution.get("reference_date") is not None
            if ctr and dated and not (isinstance(data, Mapping) and data.get("shared_items") is True):
                ctr = {**ctr, "features": [*ctr["features"], "recency"]}
        if isinstance(data, Mapping) and data.get("shared_items") is True:
            features = ctr.get("features", CTRConfig.model_fields["features"].default)
            ctr = {**ctr, "features": [*features, "shared"]}
        if ctr:
            _fill(values, "ctr", ctr)
        return values

    @property
    def private_ctr(self) -> bool:
        """Whether the CTR model trains with DP-SGD."""
        return self.privacy.epsilon is not None and self.privacy.protect == "release"

    @property
    def refines(self) -> bool:
        """Whether markets refine codes of their own without DP, which stay inside."""
        return self.private_embedding and not self.private_ctr and self.privacy.refine

    @property
    def times_counted(self) -> bool:
        """Whether noisy counts say when items were met, too: a released model then has recency."""
        return self.private_ctr and "recency" in self.ctr.features

    @property
    def private_evaluation(self) -> bool:
        """Whether test figures come from noisy histograms that the budget pays for, and no others are reported."""
        return self.privacy.shares.evaluation is not None

    @property
    def catalogue(self) -> CatalogueKind:
        """Where the markets' public items come from."""
        return self.privacy.catalogue or ("declared" if self.data.synthetic is None else "synthetic")

    @property
    def private_embedding(self) -> bool:
        """Whether embeddings are computed with differential privacy."""
        return self.embedding.kind == "dp-svd"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.seed)) != len(self.seed):
            raise ValueError("seed: the same seed twice")
        n_markets = self.data.n_markets
        if n_markets < MIN_COHORT and not self.federation.allow_small_cohort:
            raise ValueError(
                f"{n_markets} markets: below {MIN_COHORT}, one market's update shows through the sum; set "
                "federation.allow_small_cohort: true to go on, the ledger will say so"
            )
        largest = max(self.quantizer.global_codes, self.quantizer.local_codes)
        most = MODELS[self.ctr.model].most_categories
        if most is not None and CODE_GROUPS & set(self.ctr.features) and largest > most:
            raise ValueError(f"ctr.model: {self.ctr.model} takes at most {most} codes a layer, not {largest}")
        problem = self._aggregation_problem(n_markets) or self._privacy_problem(n_markets) or self._catalogue_problem()
        problem = problem or self._shared_items_problem() or self._head_problem() or self._field_problem()
        problem = problem or self._evaluation_problem()
        if problem:
            raise ValueError(problem)
        return self

    def _aggregation_problem(self, n_markets: int) -> str | None:
        limit, protected = self.aggregation.rotate_after, self.federation.rounds * len(self.seed)
        protected += self.head.rounds + (SUMS_OF_SHARED_ITEMS if self.data.shared_items else 0)
        if self.aggregation.traits.hides_single_updates and n_markets < MIN_COHORT:
            return (
                f"aggregation.kind: masked-ckks, the default, needs {MIN_COHORT} markets: with two, each opens the "
                "other's update, and masks hide nothing; set aggregation.kind: ckks"
            )
        if protected > MAX_SUMS:  # whoever verifies a run plans all of them, before he knows whose run it is
            return f"federation.rounds: {protected} rounds over all seeds, of at most {MAX_SUMS}"
        passes = self.federation.rounds * self.federation.local_epochs * len(self.seed)
        if passes > MAX_PASSES:
            return f"federation.local_epochs: {passes} passes over the rows in all, of at most {MAX_PASSES}"
        private, each = self.privacy, self.federation.rounds * self.privacy.quantizer.steps_per_round
        steps = len(self.seed) * (each + private.ctr.steps)
        if private.epsilon is not None and steps > MAX_STEPS:
            return f"privacy: {steps} steps of DP-SGD over all rounds and seeds, of at most {MAX_STEPS}"
        if limit is not None and protected > limit:
            return f"aggregation.rotate_after: {limit} is less than the {protected} rounds of the run"
        return None

    def _shared_items_problem(self) -> str | None:
        private = self.privacy.epsilon is not None
        if not self.data.shared_items:
            return "ctr.features: shared needs data.shared_items: true" if "shared" in self.ctr.features else None
        if self.embedding.kind == "lightgcn":
            return "data.shared_items: embedding.kind: lightgcn has a space for each market; use svd"
        if self.data.split == "global-date":
            return "data.shared_items needs data.split: leave-last-out: one market's training rows are another's future"
        if private and not self.private_ctr:
            return (
                "data.shared_items with privacy.epsilon needs privacy.protect: release: sums over the catalogue cost "
                "budget, and a model that stays in its market hardly gains by noisy ones"
            )
        if private and not self.aggregation.traits.hides_single_updates:
            return "data.shared_items with privacy.epsilon needs aggregation.kind: masked-ckks: noise is in the sum"
        if private and self.privacy.colluding_markets >= self.data.n_markets - 1:
            return f"privacy.colluding_markets must leave two honest markets of {self.data.n_markets}"
        return None

    def _head_problem(self) -> str | None:
        if self.head.trees and self.privacy.epsilon is not None:
            return (
                "head.trees needs privacy.epsilon: null: a head is grown from exact sums of users' gradients, which no "
                "budget covers"
            )
        return None

    def _field_problem(self) -> str | None:
        named = [name for name in FIELD_BASELINES if name in self.ctr.baselines]
        if named and self.privacy.epsilon is not None:
            return (
                f"ctr.baselines: {named[0]} needs privacy.epsilon: null: markets train it together on raw rows, which "
                "no budget covers"
            )
        if "shared" in self.field.features and not self.data.shared_items:
            return "field.features: shared needs data.shared_items: true"
        if "rqfedrec-like" in named and not self.data.shared_items:
            return "ctr.baselines: rqfedrec-like needs data.shared_items: true: its codes are of items of all markets"
        by_item = [name for name in named if name in ON_ITEMS]
        if by_item and "item_id" not in self.field.features:
            return f"ctr.baselines: {by_item[0]} needs item_id in field.features"
        return None

    def _evaluation_problem(self) -> str | None:
        asked = [name for name, value in self.evaluation if value]
        if not asked:
            return None
        if self.private_evaluation:
            return f"evaluation.{asked[0]}: an exact figure of test rows, which privacy.shares.evaluation rules out"
        if self.data.label != "click":
            return f"evaluation.{asked[0]} needs data.label: click"
        if "user_id" in self.ctr.features:
            return f"evaluation.{asked[0]}: ctr.features has user_id, and such a model knows no other rows of a user"
        return None

    def _catalogue_problem(self) -> str | None:
        privacy, chosen = self.privacy, self.privacy.catalogue
        if self.data.synthetic is not None and chosen in ("file", "declared"):
            return f"privacy.catalogue: {chosen}: generated markets have a catalogue of their own; leave it out"
        named = [name for name, file in self.data.markets.items() if file.catalogue is not None]
        missing = sorted(set(self.data.markets) - set(named))
        if chosen == "file" and missing:
            return f"privacy.catalogue: file needs data.markets.{missing[0]}.catalogue, a file of public item ids"
        if chosen != "file" and named:
            return f"data.markets.{named[0]}.catalogue needs privacy.catalogue: file"
        if chosen is None and self.private_ctr and self.data.synthetic is None:
            return (
                "privacy.protect: release needs privacy.catalogue, for which items exist is published too: file (with "
                "data.markets.NAME.catalogue), discovered (costs budget), or declared (you vouch that they are public)"
            )
        if chosen == "discovered" and privacy.epsilon is None:
            return "privacy.catalogue: discovered needs privacy.epsilon"
        private = self.embedding.private
        if chosen == "discovered" and private.method == "auto" and private.max_items > GRAM_LIMIT:
            return (
                f"privacy.catalogue: discovered: with embedding.private.max_items above {GRAM_LIMIT} choose a method, "
                "gram or subspace: the plan is made before the number of items is known"
            )
        return None

    def _privacy_problem(self, n_markets: int) -> str | None:
        privacy, ctr = self.privacy, self.ctr
        if self.audit.replay is not None and (privacy.epsilon is None or privacy.noise_seed is not None):
            return (
                "audit.replay needs privacy.epsilon, and no privacy.noise_seed: there is no secret noise to draw again"
            )
        if self.audit.canaries and privacy.epsilon is None:
            return "audit.canaries needs privacy.epsilon: there is no noise to measure"
        strangers = sorted(set(self.audit.users) - set(self.data.names))
        if strangers:
            return f"audit.users.{strangers[0]}: is no market of data.markets"
        if self.audit.users and not self.private_ctr:
            return (
                "audit.users needs privacy.epsilon and privacy.protect: release: canary users are read through what is "
                "published"
            )
        if self.audit.users and self.catalogue != "file":
            return "audit.users needs privacy.catalogue: file: items that canary users alone meet are in it"
        if privacy.ceiling is not None and (privacy.epsilon is None or privacy.ceiling < privacy.epsilon):
            return "privacy.ceiling needs privacy.epsilon, and is no smaller: it is on all runs on the data together"
        if privacy.epsilon is None:
            if self.private_embedding:
                return "embedding.kind: dp-svd needs privacy.epsilon"
            if privacy.distributed_noise:
                return "privacy.distributed_noise needs privacy.epsilon"
            noisy = sorted(NOISY_BASELINES & set(ctr.baselines))
            if noisy:
                return f"ctr.baselines: {noisy[0]} needs privacy.epsilon"
        if privacy.shares.evaluation is not None and not self.private_ctr:
            return (
                "privacy.shares.evaluation needs privacy.epsilon and privacy.protect: release: the scores of other "
                "models carry the rows of all users"
            )
        if privacy.shares.evaluation is not None and self.data.label != "click":
            return "privacy.shares.evaluation needs data.label: click: a user contributes a positive and its negatives"
        if privacy.user_codes_epsilon is not None and not self.private_ctr:
            return "privacy.user_codes_epsilon needs privacy.epsilon and privacy.protect: release"
        if privacy.epsilon is None:
            return None
        if self.federation.warm_up_rounds >= self.federation.rounds:
            return "federation.warm_up_rounds must leave at least one round for DP-SGD"
        if self.quantizer.entropy and self.quantizer.temperature < 1e-3:
            return "quantizer.temperature is too small"
        problem = self._split_problem()
        if privacy.distributed_noise:
            problem = problem or self._distributed_noise_problem(n_markets)
        return problem or (self._release_problem() if privacy.protect == "release" else None)

    def _split_problem(self) -> str | None:
        if self.privacy.epsilon is not None and self.data.split == "global-date":
            return (
                "data.split: global-date takes its dates from all users' rows: one user can move the rows of others "
                "between training and test, which no budget covers; with privacy.epsilon use leave-last-out"
            )
        return None

    def _release_problem(self) -> str | None:
        """What would leave a stage without DP although everything is to be released."""
        ctr = self.ctr
        if not self.private_embedding:
            return f"privacy.protect: release needs embedding.kind: dp-svd; {self.embedding.kind} reads raw rows"
        if not MODELS[ctr.model].trains_privately:
            able = ", ".join(kind for kind, traits in MODELS.items() if traits.trains_privately)
            return f"privacy.protect: release: ctr.model: {ctr.model} cannot train with DP-SGD; use one of {able}"
        refused = ", ".join(sorted(set(ctr.features) - PRIVATE_GROUPS))
        if refused:
            allowed = ", ".join(sorted(PRIVATE_GROUPS))
            return f"privacy.protect: release: ctr.features: {refused} cannot be released; choose from {allowed}"
        if self.times_counted and self.privacy.contribution.reference_date is None:
            return (
                "privacy.protect: release: ctr.features: recency needs privacy.contribution.reference_date, the public "
                "date from which times count"
            )
        if ctr.codes == "local":
            return "privacy.protect: release: ctr.codes: local would train codes on raw rows; leave it out"
        if set(ctr.layers) != set(CODE_LAYERS):
            return "privacy.protect: release: ctr.layers: a released model sees both"
        if ctr.training != "cross-fit":
            return "privacy.protect: release needs ctr.training: cross-fit"
        if ctr.dropout:
            return "privacy.protect: release needs ctr.dropout: 0"
        if ctr.average_local:
            return "privacy.protect: release: ctr.average_local would train codes on raw rows; leave it out"
        if ctr.tune:
            return "privacy.protect: release: ctr.tune would choose by private validation rows outside the budget"
        return None

    def _distributed_noise_problem(self, n_markets: int) -> str | None:
        privacy = self.privacy
        if not self.aggregation.traits.hides_single_updates:
            return (
                "privacy.distributed_noise needs aggregation.kind: masked-ckks: whoever opens a single update finds "
                "a part of the noise alone"
            )
        if self.aggregation.norm is not None:
            return "privacy.distributed_noise: aggregation.norm would cut off parts of the noise"
        if privacy.quantizer.steps_per_round != 1:
            return "privacy.distributed_noise needs privacy.quantizer.steps_per_round: 1, so that noise adds up"
        if privacy.colluding_markets >= n_markets - 1:
            return f"privacy.colluding_markets must leave two honest markets of {n_markets}"
        return None


PRIVATE_CTR: dict[str, Any] = {
    "model": "deepfm",
    "features": ["user_codes", "item_codes", "code_affinity", "scores", "counts"],
    "dim": 4,
    "hidden": [32, 16],
    "dropout": 0.0,
    "baselines": ["popularity", "noisy-popularity", "noisy-recent-popularity", "boosted-scores"],
}


def _fill(values: dict[str, Any], section: str, defaults: Mapping[str, Any]) -> None:
    """Set keys that the user left out."""
    given = values.get(section) or {}
    if isinstance(given, Mapping):
        values[section] = {**defaults, **given}
