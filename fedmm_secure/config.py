"""The configuration of a run, validated: an unknown or ill-typed key is refused with the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from fedmm_secure.config_privacy import GRAM_LIMIT, PrivacyConfig, PrivateEmbeddingConfig, Section
from fedmm_secure.ctr.features import CODE_GROUPS, PRIVATE_GROUPS, FeatureGroup
from fedmm_secure.ctr.training import MAX_CATEGORIES, ModelKind
from fedmm_secure.data.candidates import Negatives
from fedmm_secure.data.catalogue import CatalogueKind
from fedmm_secure.data.columns import MISSING
from fedmm_secure.data.loaders import LARGE_SHARE, BadRows, MarketFile
from fedmm_secure.data.synthetic import SyntheticSpec
from fedmm_secure.errors import ConfigError
from fedmm_secure.foreign import MAX_YAML_BYTES, parse_yaml
from privacy.aggregation.kinds import TRAITS, Traits
from privacy.foreign import ForeignFileError, read_bytes
from privacy.names import NAME_RULE, is_name

MIN_COHORT = 3
SUMS_OF_SHARED_ITEMS = 2  # counts, then co-occurrence

BaselineName = Literal[
    "popularity",
    "svd",
    "noisy-popularity",
    "noisy-recent-popularity",
    "local-ids",
    "local-codes",
    "federated-codes",
    "boosted-scores",
]
NOISY_BASELINES = frozenset({"noisy-popularity", "noisy-recent-popularity"})


class SharedCatalogue(Section):
    """A public list of items, the same for all markets: size and hash are a part of what the markets agree on."""

    files: tuple[Path, ...] = Field(min_length=1, description="one item id a line; a name in several counts once")
    size: int = Field(ge=1, description="items of all files together")
    sha256: str = Field(pattern="[0-9a-f]{64}", description="of their ids, sorted, one a line")


SharedUsers = Literal["refused", "composed", "distinct"]


class DataConfig(Section):
    """Which markets, and how their rows become candidates."""

    root: Path | None = Field(None, description="folder that the markets' paths are relative to")
    markets: dict[str, MarketFile] = Field(default_factory=dict, description="one entry a market")
    synthetic: SyntheticSpec | None = Field(None, description="generate markets instead of reading them")
    shared_users: SharedUsers = Field(
        "refused", description="user ids of several markets: refused, or one person each (composed), or distinct people"
    )
    shared_items: bool = Field(
        False, description="item ids mean the same in every market: markets sum counts and co-occurrence of items"
    )
    shared_catalogue: SharedCatalogue | None = Field(None, description="the public items of all markets together")
    on_bad_rows: BadRows = Field("error", description="refuse a file with bad rows, or leave them out")
    missing: tuple[str, ...] = Field(MISSING, description="spellings of a field in which there is nothing: a bad row")
    large_share: float = Field(
        LARGE_SHARE, gt=0, le=1, description="`fedmm data` names every id that holds more than this share of the rows"
    )
    split: Literal["leave-last-out", "global-date"] = "leave-last-out"
    label: Literal["click", "like"] = "click"
    like_threshold: float = Field(4.0, description="rating from which a row counts as liked")
    min_item_train: int = Field(5, ge=1, description="training interactions that put an item into the pool")
    negatives: Negatives = "uniform"
    negatives_per_positive: int = Field(4, ge=1, le=1000)
    candidate_seed: int = Field(0, description="seed of the evaluation candidates, the same for every model")

    @field_validator("markets", mode="before")
    @classmethod
    def _names_are_texts(cls, markets: Any) -> Any:
        for name in markets if isinstance(markets, Mapping) else ():
            if not isinstance(name, str):
                raise ValueError(f"data.markets: the market name {name!r} is no text; in YAML put it in quotes")
        return markets

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.markets) == (self.synthetic is not None):
            raise ValueError("give either data.markets or data.synthetic")
        for name, file in self.markets.items():
            if not is_name(name) or name == "server":
                raise ValueError(f"market name {name!a:.80}: use {NAME_RULE}, and not 'server'")
            if self.split == "global-date" and file.time is None:
                raise ValueError(f"data.split: global-date needs data.markets.{name}.time")
            if self.label == "like" and file.rating is None:
                raise ValueError(f"data.label: like needs data.markets.{name}.rating")
        return self

    @model_validator(mode="after")
    def _shared_catalogue(self) -> Self:
        if self.shared_catalogue is not None and (not self.shared_items or self.synthetic is not None):
            raise ValueError("data.shared_catalogue is for data.shared_items: true, and markets read from files")
        if self.shared_items and self.synthetic is None and self.shared_catalogue is None:
            raise ValueError(
                "data.shared_items: true needs data.shared_catalogue: public files that name the items of all markets"
            )
        return self

    @property
    def shared_size(self) -> int:
        """Items of the catalogue that all markets share; 0 where ids have nothing to do with each other."""
        if not self.shared_items:
            return 0
        if self.shared_catalogue is not None:
            return self.shared_catalogue.size
        return self.synthetic.catalogue_size if self.synthetic is not None else 0

    @property
    def n_markets(self) -> int:
        """Markets, read or generated."""
        return len(self.markets) or (self.synthetic.markets if self.synthetic else 0)


class EmbeddingConfig(Section):
    """Collaborative-filtering embeddings; ``dp-svd`` is the default where privacy.epsilon is set."""

    kind: Literal["svd", "lightgcn", "dp-svd"] = "svd"
    dim: int = Field(32, ge=2, le=1024, description="svd, lightgcn, and what a market refines its own codes on")
    private: PrivateEmbeddingConfig = PrivateEmbeddingConfig()
    shared_items: int = Field(
        1200, ge=10, le=4000, description="data.shared_items: items of largest summed count in the summed Gram matrix"
    )
    layers: int = Field(2, ge=1, le=8, description="lightgcn: propagation steps")
    epochs: int = Field(60, ge=1, description="lightgcn: passes over the interactions")
    learning_rate: float = Field(0.01, gt=0, description="lightgcn: step size")


class QuantizerConfig(Section):
    """The RQ-VAE."""

    global_codes: int = Field(64, ge=2, le=65536)
    local_codes: int = Field(64, ge=2, le=65536)
    latent_dim: int = Field(16, ge=2, le=1024)
    hidden_dim: int = Field(64, ge=2)
    normalise_latent: bool = Field(True, description="quantise directions: keeps codebooks from collapsing")
    global_radius: float = Field(1.0, gt=0, description="norm of initial global codewords")
    local_radius: float = Field(0.5, gt=0, description="norm of initial local codewords")
    commitment: float = Field(0.25, ge=0)
    entropy: float = Field(0.0, ge=0, description="weight of the entropy of soft assignments")
    temperature: float = Field(0.2, gt=0, description="temperature of soft assignments")
    learning_rate: float = Field(3e-3, gt=0)
    batch_size: int = Field(256, ge=1)


class FederationConfig(Section):
    """Rounds of global-codebook aggregation."""

    rounds: int = Field(20, ge=1, le=10_000)
    local_epochs: int = Field(3, ge=1, description="passes over the rows in one round")
    warm_up_rounds: int = Field(0, ge=0, description="first rounds, which under DP train on item rows alone")
    allow_small_cohort: bool = Field(
        False, description=f"aggregate fewer than {MIN_COHORT} markets, whose updates then show through the sum"
    )
    round_timeout: float | None = Field(
        None, gt=0, description="seconds that a market may take for an update before the round goes on without it"
    )


class AggregationConfig(Section):
    """How the global codebook's movement travels."""

    kind: Literal["plaintext", "ckks", "masked-ckks"] = Field(
        "masked-ckks", description="ckks: a server that colludes with one market opens every single update"
    )
    clip: float = Field(4.0, gt=0, description="largest movement of one coordinate in a round")
    bits: int = Field(20, ge=4, le=30, description="fixed-point bits of that movement")
    norm: float | None = Field(
        None, gt=0, description="largest Euclidean norm of one market's update; a larger one is scaled down to it"
    )
    rotate_after: int | None = Field(None, ge=1, description="rounds that one shared key may protect")

    @property
    def traits(self) -> Traits:
        """What the kind has and lacks."""
        return TRAITS[self.kind]


class CrossFitConfig(Section):
    """Which training rows become examples whose features are computed without them."""

    last: int = Field(1, ge=0, le=20, description="folds that hold out the latest rows, one deeper each")
    random: int = Field(0, ge=0, le=20, description="folds that hold out one random row per user")


class CTRConfig(Section):
    """The CTR model, its features and the baselines beside it."""

    model: ModelKind = "boosted"
    features: tuple[FeatureGroup, ...] = (
        "user_codes",
        "item_codes",
        "code_affinity",
        "scores",
        "counts",
        "recency",
    )
    training: Literal["cross-fit", "in-sample"] = "cross-fit"
    cross_fit: CrossFitConfig = CrossFitConfig()
    refit: bool = Field(True, description="after early stopping, refit on training and validation rows")
    tune: bool = Field(False, description="choose among a few hyper-parameters by validation AUC")
    baselines: tuple[BaselineName, ...] = ("popularity", "svd", "local-ids", "boosted-scores")
    dim: int = Field(16, ge=1, le=512, description="neural: embedding size")
    hidden: tuple[int, ...] = Field((64, 32), description="neural: widths of the perceptron")
    dropout: float = Field(0.2, ge=0, lt=1)
    learning_rate: float = Field(1e-2, gt=0, description="neural: Adam's step size")
    batch_size: int = Field(4096, ge=1, description="neural: examples in a batch, at most; fewer in small markets")
    max_epochs: int = Field(20, ge=1, description="neural: early stopping comes first, as a rule")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.features:
            raise ValueError("ctr.features must name at least one group")
        if self.training == "cross-fit":
            if "user_id" in self.features:
                raise ValueError("ctr.features: user_id cannot be cross-fitted; use ctr.training: in-sample")
            if self.cross_fit.last + self.cross_fit.random == 0:
                raise ValueError("ctr.cross_fit: hold out at least one row per user")
        if self.model == "boosted" and {"user_id", "item_id"} & set(self.features):
            raise ValueError("ctr.model: boosted does not take user_id or item_id; use deepfm or dcnv2")
        return self


class Config(Section):
    """Everything that determines a run."""

    seed: tuple[int, ...] = Field((0,), min_length=1, description="one repetition of training for each seed")
    device: Literal["cpu"] = "cpu"
    workers: int = Field(2, ge=1, le=256, description="markets trained at a time; does not change results")
    data: DataConfig
    embedding: EmbeddingConfig = EmbeddingConfig()
    quantizer: QuantizerConfig = QuantizerConfig()
    federation: FederationConfig = FederationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    aggregation: AggregationConfig = AggregationConfig()
    ctr: CTRConfig = CTRConfig()

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
        boosted_codes = self.ctr.model == "boosted" and CODE_GROUPS & set(self.ctr.features)
        if boosted_codes and largest > MAX_CATEGORIES:
            raise ValueError(f"ctr.model: boosted takes at most {MAX_CATEGORIES} codes a layer, not {largest}")
        problem = (
            self._shared_items_problem()
            or self._aggregation_problem(n_markets)
            or self._privacy_problem(n_markets)
            or self._catalogue_problem()
        )
        if problem:
            raise ValueError(problem)
        return self

    def _aggregation_problem(self, n_markets: int) -> str | None:
        limit, protected = self.aggregation.rotate_after, self.federation.rounds * len(self.seed)
        protected += SUMS_OF_SHARED_ITEMS if self.data.shared_items else 0
        if self.aggregation.traits.hides_single_updates and n_markets < MIN_COHORT:
            return (
                f"aggregation.kind: masked-ckks, the default, needs {MIN_COHORT} markets: with two, each opens the "
                "other's update, and masks hide nothing; set aggregation.kind: ckks"
            )
        if limit is not None and protected > limit:
            return f"aggregation.rotate_after: {limit} is less than the {protected} rounds of the run"
        return None

    def _shared_items_problem(self) -> str | None:
        if not self.data.shared_items:
            return "ctr.features: shared needs data.shared_items: true" if "shared" in self.ctr.features else None
        if self.embedding.kind == "lightgcn":
            return "data.shared_items: embedding.kind: lightgcn has a space for each market; use svd"
        if self.privacy.epsilon is not None and not self.private_ctr:
            return "data.shared_items with privacy.epsilon needs privacy.protect: release"
        if self.privacy.epsilon is not None and not self.aggregation.traits.hides_single_updates:
            return "data.shared_items with privacy.epsilon needs aggregation.kind: masked-ckks: noise is in the sum"
        if self.data.split == "global-date":
            return (
                "data.shared_items: data.split: global-date cuts each market elsewhere: one would tell another its test"
            )
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
        if ctr.model == "boosted":
            return (
                "privacy.protect: release: ctr.model: boosted cannot train with DP-SGD; use deepfm, dcnv2 or logistic"
            )
        refused = ", ".join(sorted(set(ctr.features) - PRIVATE_GROUPS))
        if refused:
            allowed = ", ".join(sorted(PRIVATE_GROUPS))
            return f"privacy.protect: release: ctr.features: {refused} cannot be released; choose from {allowed}"
        if ctr.training != "cross-fit":
            return "privacy.protect: release needs ctr.training: cross-fit"
        if ctr.dropout:
            return "privacy.protect: release needs ctr.dropout: 0"
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


def config_from_data(data: Any, *, source: str) -> Config:
    """Validate a mapping.

    Raises:
        ConfigError: one line with the source, the key and what to do.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source}: a mapping of keys to values is expected, not {type(data).__name__}")
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_first_problem(error)}") from error


def load_yaml(path: Path) -> Any:
    """Parse a YAML file of the caller's own, aliases and all; raises ``ConfigError`` with the line at fault."""
    try:
        return parse_yaml(read_bytes(path, MAX_YAML_BYTES), path, aliases=True) or {}
    except ForeignFileError as error:
        raise ConfigError(str(error)) from error


def foreign_config(directory: Path, name: str) -> Config:
    """The configuration that a run was made with, as far as a reader takes its word.

    A run names no path that its reader opens: where its account and its data were is left out of what this returns,
    and comes from the reader.

    Raises:
        ConfigError: no such file, or no configuration.
    """
    path = directory / name
    try:
        data = parse_yaml(read_bytes(path, MAX_YAML_BYTES, below=directory), path) or {}
    except ForeignFileError as error:
        raise ConfigError(str(error)) from error
    config = config_from_data(data, source=str(path))
    privacy = config.privacy.model_copy(update={"account": None})
    return config.model_copy(update={"privacy": privacy, "data": config.data.model_copy(update={"root": None})})


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    parts = [str(part) for part in problem["loc"]]
    key = ".".join(parts)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(parts[-1], _sibling_keys(parts[:-1]), n=1, cutoff=0.5)
        known = ", ".join(_sibling_keys(parts[:-1]))
        return f"{key}: unknown key; " + (f"did you mean {near[0]!r}?" if near else f"known keys: {known}")
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    got = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
    return f"{key}: {message[0].lower()}{message[1:]}{got}"


def _sibling_keys(parents: list[str]) -> list[str]:
    model: Any = Config
    for part in parents:
        if isinstance(model, type) and issubclass(model, BaseModel):
            annotation = model.model_fields[part].annotation if part in model.model_fields else None
        else:
            annotation = model  # the values of a mapping: data.markets.<name>
        model = _inner_model(annotation)
    return sorted(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    arguments = getattr(annotation, "__args__", ())
    models = [a for a in arguments if isinstance(a, type) and issubclass(a, BaseModel)]
    return models[0] if models else None
