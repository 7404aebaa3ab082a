"""What a configuration may choose from, and the numbers that its rules name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

BadRows = Literal["error", "skip"]
BaselineName = Literal[
    "popularity",
    "svd",
    "noisy-popularity",
    "noisy-recent-popularity",
    "local-ids",
    "local-dcnv2",
    "local-autoint",
    "local-finalmlp",
    "local-codes",
    "federated-codes",
    "boosted-scores",
    "pooled",
    "fedavg",
    "fedprox",
    "ditto",
    "fedrep",
    "market-aware",
    "rqfedrec-like",
]
FieldName = Literal[
    "pooled", "fedavg", "fedprox", "ditto", "fedrep", "market-aware", "rqfedrec-like"
]  # of these, what markets train together
CatalogueKind = Literal["file", "synthetic", "discovered", "declared"]
DeviceName = Literal["cpu", "cuda"]
DeviceSetting = Literal["auto", "cpu", "cuda"]
CodeLayer = Literal["global", "local"]
CodeOrigin = Literal["federated", "local"]
FeatureGroup = Literal[
    "user_id", "item_id", "user_codes", "item_codes", "code_affinity", "scores", "counts", "recency", "shared"
]
ModelKind = Literal["boosted", "logistic", "deepfm", "dcnv2", "autoint", "finalmlp"]
Negatives = Literal["uniform", "popularity"]
SharedUsers = Literal["refused", "composed", "distinct"]
TimeUnit = Literal["iso", "s", "ms", "us", "ns", "number"]


@dataclass(frozen=True)
class ModelTraits:
    """What a kind of CTR model is made of and lacks, for whoever chooses one: ask a trait, and never for a name.

    Attributes:
        family: ``module:family`` that makes it.
        most_categories: values that one of its inputs may have; None for any number.
        trains_privately: whether user-level DP-SGD can train it.
        suffix: of the files of its models.
    """

    family: str
    most_categories: int | None = None
    trains_privately: bool = False
    suffix: str = "pt"


# 255: of HistGradientBoostingClassifier
_TREES = ModelTraits("fedmm_secure.ctr.models.boosted:FAMILY", most_categories=255, suffix="npz")
_NETWORK = ModelTraits("fedmm_secure.ctr.models.neural:FAMILY", trains_privately=True)
_PUBLIC_NETWORK = ModelTraits("fedmm_secure.ctr.models.neural:FAMILY")
MODELS: Mapping[ModelKind, ModelTraits] = {
    "boosted": _TREES,
    "logistic": _NETWORK,
    "deepfm": _NETWORK,
    "dcnv2": _NETWORK,
    "autoint": _PUBLIC_NETWORK,
    "finalmlp": _PUBLIC_NETWORK,
}

CODE_LAYERS: tuple[CodeLayer, ...] = get_args(CodeLayer)
FEATURE_GROUPS: tuple[FeatureGroup, ...] = get_args(FeatureGroup)
CODE_GROUPS = frozenset({"user_codes", "item_codes", "code_affinity"})
PRIVATE_GROUPS = frozenset(
    {"user_codes", "item_codes", "code_affinity", "scores", "counts", "recency", "item_id", "shared"}
)
FIELD_BASELINES: tuple[FieldName, ...] = get_args(FieldName)
ON_ITEMS: tuple[FieldName, ...] = ("market-aware", "rqfedrec-like")  # of them, those that do something to items' ids
NOISY_BASELINES = frozenset({"noisy-popularity", "noisy-recent-popularity"})

CONFIGURED = "fedmm"  # among models and baselines: the one that the configuration describes
MIN_COHORT = 3
SUMS_OF_SHARED_ITEMS = 2  # counts, then co-occurrence
MAX_SUMS = 10_000  # rounds over all seeds of a run
MAX_STEPS = 500_000  # of DP-SGD, over all rounds and seeds of a run: who verifies it composes them
MAX_PASSES = 100_000  # over a market's rows, in all rounds and seeds of a run
MOST_PAIRS, MOST_ROWS = 10**11, 10**8  # of markets that are generated: a million users, 30,000 items, 30 rows each
LARGE_SHARE = 0.1
MISSING = (
    "", "NULL", "Null", "null", "NaN", "nan", "NAN", "NA", "N/A", "n/a", "<NA>", "#N/A", "\\N",
    "None", "none", "nil", "NaT", "undefined",
)  # fmt: skip
SHIPPED = "shipped:"  # catalogues that come with the package; data folders may be read-only


def is_shipped(name: Path) -> bool:
    """Whether a name means a catalogue that comes with the package, not a file."""
    return str(name).startswith(SHIPPED)
