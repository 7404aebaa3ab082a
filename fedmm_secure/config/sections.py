"""The sections of a configuration that say which data, and how it becomes codes and scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fedmm_secure.config.base import LARGEST_SEED, Section
from fedmm_secure.config.choices import (
    CODE_GROUPS,
    CODE_LAYERS,
    FEATURE_GROUPS,
    LARGE_SHARE,
    MIN_COHORT,
    MISSING,
    MODELS,
    BadRows,
    BaselineName,
    CodeLayer,
    CodeOrigin,
    FeatureGroup,
    ModelKind,
    Negatives,
    SharedUsers,
    TimeUnit,
    is_shipped,
)
from fedmm_secure.config.privacy import PrivateEmbeddingConfig
from fedmm_secure.config.synthetic import SyntheticSpec
from privacy.aggregation.kinds import TRAITS, Traits
from privacy.names import NAME_RULE, is_name

Position = Annotated[int, Field(le=10_000)]  # of a column


class MarketFile(Section):
    """Where a market's rows are and which column means what.

    Columns are named by their header, or by position (from 0) where ``header`` is false.
    """

    path: Path = Field(description="delimited text (`.csv`, `.tsv`, `.txt`; gzip too) or `.parquet`, in any case")
    user: str | Position = Field("userId", description="column of user ids, by name or by position from 0")
    item: str | Position = Field("itemId", description="column of item ids")
    rating: str | Position | None = Field(None, description="column of ratings")
    time: str | Position | None = Field(None, description="column of times; without it the order of the file counts")
    time_unit: TimeUnit | None = Field(
        None,
        description="of `time`: `iso`, or what numbers count from 1970 in UTC; `number`: their order alone counts. By "
        "default the column's type says it, and texts are ISO 8601",
    )
    separator: str | None = Field(
        None, description="one character; by default `,` for `.csv`, a tab for `.tsv`, else a blank"
    )
    quoting: bool = Field(True, description='whether `"` around a field encloses it, on its own line')
    header: bool = Field(True, description="whether the first line names the columns")
    width: int | None = Field(
        None,
        ge=2,
        le=1000,
        description="fields of a row where there is no header; by default at least those that are mapped",
    )
    catalogue: Path | None = Field(None, description="file of public item ids, one a line; or `shipped:FOLDER/NAME`")

    @field_validator("separator")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or not value.isascii() or value in '"\r\n\0'):
            raise ValueError(f"separator {value!r}: one ASCII character, no quotation mark and no line end")
        return value

    @model_validator(mode="after")
    def _different_columns(self) -> Self:
        seen: dict[str | int, str] = {}
        for role, column in self.roles.items():
            if column in seen:
                raise ValueError(f"{seen[column]} and {role} are the same column, {column!r}")
            seen[column] = role
        if self.width is not None and self.header:
            raise ValueError("width is for files without a header, whose first line says it; leave it out")
        if self.time_unit is not None and self.time is None:
            raise ValueError("time_unit needs time, the column that it is of")
        return self

    @property
    def roles(self) -> dict[str, str | int]:
        """Column of each role that is mapped."""
        mapped = {"user": self.user, "item": self.item, "rating": self.rating, "time": self.time}
        return {role: column for role, column in mapped.items() if column is not None}

    def located(self, root: Path) -> MarketFile:
        """The same with its files below ``root``; a catalogue that comes with the package stays where it is."""
        catalogue = self.catalogue
        if catalogue is not None and not is_shipped(catalogue):
            catalogue = root / catalogue
        return self.model_copy(update={"path": root / self.path, "catalogue": catalogue})


class SharedCatalogue(Section):
    """A public list of items, the same for all markets: size and hash are a part of what the markets agree on."""

    files: tuple[Path, ...] = Field(
        min_length=1, max_length=1000, description="one item id a line; a name in several counts once"
    )
    size: int = Field(ge=1, le=10_000_000, description="items of all files together")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of their ids, sorted, one a line")


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
    missing: tuple[str, ...] = Field(
        MISSING, max_length=1000, description="spellings of a field in which there is nothing: a bad row"
    )
    large_share: float = Field(
        LARGE_SHARE, gt=0, le=1, description="`fedmm data` names every id that holds more than this share of the rows"
    )
    split: Literal["leave-last-out", "global-date"] = Field(
        "leave-last-out", description="test rows: each user's last one, or those after a date"
    )
    label: Literal["click", "like"] = Field("click", description="what is positive: any row, or a rating that is high")
    like_threshold: float = Field(4.0, ge=-1e6, le=1e6, description="rating from which a row counts as liked")
    min_item_train: int = Field(
        5, ge=1, le=1_000_000, description="training interactions that put an item into the pool"
    )
    negatives: Negatives = Field("uniform", description="evenly from the pool, or in proportion to training rows")
    negatives_per_positive: int = Field(4, ge=1, le=1000, description="negatives beside each positive")
    candidate_seed: int = Field(
        0, ge=-LARGEST_SEED, le=LARGEST_SEED, description="seed of the evaluation candidates, the same for every model"
    )

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
        return len(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the markets, read or generated, ascending."""
        generated = range(self.synthetic.markets if self.synthetic else 0)
        return tuple(sorted(self.markets) or [f"m{number}" for number in generated])


# of DataConfig, what only whoever has the rows can say: where they are, and how they are read
READING_KEYS = ("root", "markets", "synthetic", "on_bad_rows", "missing", "large_share")


class EmbeddingConfig(Section):
    """Collaborative-filtering embeddings; ``dp-svd`` is the default where privacy.epsilon is set."""

    kind: Literal["svd", "lightgcn", "dp-svd"] = Field(
        "svd", description="what factorises the rows; dp-svd alone has a guarantee"
    )
    dim: int = Field(32, ge=2, le=1024, description="svd, lightgcn, and what a market refines its own codes on")
    private: PrivateEmbeddingConfig = PrivateEmbeddingConfig()
    shared_items: int = Field(
        1200, ge=10, le=2000, description="data.shared_items: items of largest summed count in the summed Gram matrix"
    )
    layers: int = Field(2, ge=1, le=8, description="lightgcn: propagation steps")
    epochs: int = Field(60, ge=1, le=1000, description="lightgcn: passes over the interactions")
    learning_rate: float = Field(0.01, gt=0, le=100, description="lightgcn: step size")


class QuantizerConfig(Section):
    """The RQ-VAE."""

    global_codes: int = Field(64, ge=2, le=65536, description="codewords of layer 1, learned by all markets")
    local_codes: int = Field(64, ge=2, le=65536, description="codewords of layer 2, each market's own")
    latent_dim: int = Field(16, ge=2, le=1024, description="length of a codeword")
    hidden_dim: int = Field(64, ge=2, le=4096, description="width of encoder and decoder")
    normalise_latent: bool = Field(True, description="quantise directions: keeps codebooks from collapsing")
    global_radius: float = Field(1.0, gt=0, le=1e6, description="norm of initial global codewords")
    local_radius: float = Field(0.5, gt=0, le=1e6, description="norm of initial local codewords")
    commitment: float = Field(0.25, ge=0, le=1e6, description="weight of the pull of latents towards their codewords")
    entropy: float = Field(0.0, ge=0, le=1e6, description="weight of the entropy of soft assignments")
    temperature: float = Field(0.2, gt=0, le=1e6, description="temperature of soft assignments")
    learning_rate: float = Field(3e-3, gt=0, le=100, description="Adam's step size, without DP")
    batch_size: int = Field(256, ge=1, le=1_000_000, description="rows in a batch, without DP")


class FederationConfig(Section):
    """Rounds of global-codebook aggregation."""

    rounds: int = Field(20, ge=1, le=10_000, description="sums of the markets' movements")
    local_epochs: int = Field(3, ge=1, le=1000, description="passes over the rows in one round")
    warm_up_rounds: int = Field(0, ge=0, le=10_000, description="first rounds, which under DP train on item rows alone")
    allow_small_cohort: bool = Field(
        False, description=f"aggregate fewer than {MIN_COHORT} markets, whose updates then show through the sum"
    )
    round_timeout: float | None = Field(
        None,
        gt=0,
        le=1e7,
        description="seconds that a market may take for an update before the round goes on without it",
    )


class AggregationConfig(Section):
    """How the global codebook's movement travels."""

    kind: Literal["plaintext", "ckks", "masked-ckks"] = Field(
        "masked-ckks", description="ckks: a server that colludes with one market opens every single update"
    )
    clip: float = Field(4.0, gt=0, le=1e6, description="largest movement of one coordinate in a round")
    bits: int = Field(20, ge=4, le=30, description="fixed-point bits of that movement")
    norm: float | None = Field(
        None,
        gt=0,
        le=1e9,
        description="largest Euclidean norm of one market's update; a larger one is scaled down to it",
    )
    rotate_after: int | None = Field(None, ge=1, le=10**9, description="rounds that one shared key may protect")

    @property
    def traits(self) -> Traits:
        """What the kind has and lacks."""
        return TRAITS[self.kind]


Share = Annotated[float, Field(gt=0, le=1)]
Width = Annotated[int, Field(ge=1, le=4096)]


class HeadConfig(Section):
    """A head of all markets: boosted trees on features that name no id, grown from summed histograms; without DP."""

    trees: int = Field(0, ge=0, le=1000, description="boosted trees; 0: no head is fitted")
    depth: int = Field(4, ge=1, le=6, description="levels of a tree, each a round in which markets add their sums")
    learning_rate: float = Field(0.15, gt=0, le=1, description="share of its value that a leaf adds")
    l2: float = Field(1.0, gt=0, le=1e9, description="shrinks a leaf with few examples")
    shares: tuple[Share, ...] = Field(
        (0.02, 0.1, 0.4, 1.0),
        min_length=1,
        max_length=20,
        description="users that a market takes itself to know, in turn",
    )
    least_weight: float = Field(
        4.0, gt=0, le=1e9, description="least sum of second derivatives on either side of a split"
    )

    @property
    def rounds(self) -> int:
        """Sums that the head takes."""
        return self.trees * self.depth


class CrossFitConfig(Section):
    """Which training rows become examples whose features are computed without them."""

    last: int = Field(1, ge=0, le=20, description="folds that hold out the latest rows, one deeper each")
    random: int = Field(0, ge=0, le=20, description="folds that hold out one random row per user")


class CTRConfig(Section):
    """The CTR model, its features and the baselines beside it."""

    model: ModelKind = Field("boosted", description="boosted trees, logistic regression, or a network")
    features: tuple[FeatureGroup, ...] = Field(
        ("user_codes", "item_codes", "code_affinity", "scores", "counts", "recency"),
        max_length=len(FEATURE_GROUPS),
        description="what the model sees of a user and an item",
    )
    codes: CodeOrigin = Field(
        "federated", description="with layer 1 of all markets, or from codebooks that the market trained alone"
    )
    layers: tuple[CodeLayer, ...] = Field(
        CODE_LAYERS, min_length=1, max_length=2, description="layers whose codes the model sees"
    )
    training: Literal["cross-fit", "in-sample"] = Field(
        "cross-fit", description="features of a training row are computed without it, or with it"
    )
    cross_fit: CrossFitConfig = CrossFitConfig()
    refit: bool = Field(True, description="after early stopping, refit on training and validation rows")
    average_local: bool = Field(
        False, description="average log-odds with those of a second model, on codes that the market trained alone"
    )
    keep_own_below: int = Field(
        1000,
        ge=0,
        le=10**9,
        description="data.shared_items and average_local: with fewer users, a public number, a market averages a third "
        "model, which sees nothing of other markets",
    )
    tune: bool = Field(False, description="choose among a few hyper-parameters by validation AUC")
    baselines: tuple[BaselineName, ...] = Field(
        ("popularity", "svd", "local-ids", "boosted-scores"), max_length=50, description="models on the same candidates"
    )
    dim: int = Field(16, ge=1, le=512, description="neural: embedding size")
    hidden: tuple[Width, ...] = Field((64, 32), max_length=8, description="neural: widths of the perceptron")
    dropout: float = Field(0.2, ge=0, lt=1, description="neural: share of units left out in training")
    learning_rate: float = Field(1e-2, gt=0, le=100, description="neural: Adam's step size")
    batch_size: int = Field(
        4096, ge=1, le=1_000_000, description="neural: examples in a batch, at most; fewer in small markets"
    )
    max_epochs: int = Field(20, ge=1, le=1000, description="neural: early stopping comes first, as a rule")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.features:
            raise ValueError("ctr.features must name at least one group")
        if self.average_local and not CODE_GROUPS & set(self.features):
            raise ValueError("ctr.average_local: needs codes among ctr.features: two models would be the same")
        if self.average_local and self.codes == "local":
            raise ValueError("ctr.average_local: needs ctr.codes: federated: both models would have codes of their own")
        if self.training == "cross-fit":
            if "user_id" in self.features:
                raise ValueError("ctr.features: user_id cannot be cross-fitted; use ctr.training: in-sample")
            if self.cross_fit.last + self.cross_fit.random == 0:
                raise ValueError("ctr.cross_fit: hold out at least one row per user")
        if MODELS[self.model].most_categories is not None and {"user_id", "item_id"} & set(self.features):
            raise ValueError(f"ctr.model: {self.model} does not take user_id or item_id; a network does")
        return self
