"""What ``metrics.json`` and ``environment.json`` may say: every field, and no other.

What is not a figure of its own kind has no place in a file that is handed out: a further key would carry rows, or exact
figures beside noisy ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedmm_secure.config import Config
from fedmm_secure.config.choices import FIELD_BASELINES
from fedmm_secure.storage.digests import Digest
from fedmm_secure.storage.provenance import PACKAGES
from fedmm_secure.storage.texts import Time

_PUBLISHED_CODES = "published-user-codes"  # a baseline that user codes are published for
_Count = Annotated[int, Field(ge=0, le=10**12)]
_Share = Annotated[float, Field(ge=0, le=1)]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+_-]{1,40}$")]
Stage = Literal[
    "budget",
    "catalogue",
    "sums",
    "embedding",
    "quantizer",
    "head",
    "refinement",
    "ctr",
    "field",
    "evaluation",
    "tasks",
    "metrics",
]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Interval(_Closed):
    mean: float
    low: float | None
    high: float | None


class _Scores(_Closed):
    auc: _Share | None
    logloss: float | None
    gauc: _Share | None
    ndcg10: _Share | None
    auc_interval: _Interval | None  # of candidates that are all of one kind there is no figure


class _BySeed(_Scores):
    auc_by_seed: list[_Share | None]


class _Baseline(_BySeed):
    auc_gain_over_it: _Interval | None


class _Quantizer(_Closed):
    reconstruction_error: float
    global_used: float
    global_perplexity: float
    global_overlap: float | None = None  # earlier runs do not say it
    local_used: float
    local_perplexity: float
    local_overlap: float | None = None


Instant = Annotated[str, Field(pattern=r"^[0-9T:.eE+-]{1,40}Z?$")]


class _Reading(_Closed):
    lines: _Count
    header: _Count
    blank: _Count
    bad: _Count
    missing: _Count
    merged: _Count
    rows: _Count
    users: _Count
    items: _Count
    largest_user: _Count
    first: Instant | None
    last: Instant | None


class _Ranked(_Closed):
    ndcg10: _Share
    recall10: _Share
    popularity_ndcg10: _Share
    popularity_recall10: _Share


class _Ranking(_Ranked):
    users: _Count
    items: _Count


_Length = Annotated[str, Field(pattern=r"^[0-9]{1,3}$")]


class _Market(_BySeed):
    n_rows: _Count
    n_users: _Count
    n_items: _Count
    n_train: _Count
    n_pool: _Count
    pool_test_share: _Share
    n_test: _Count
    n_test_positives: _Count
    skipped_rows: _Count
    reading: _Reading | None = None  # without a budget alone
    candidates: Digest | None
    ranking: _Ranking | None = None
    short_histories: dict[_Length, _Share | None] | None = None
    baselines: dict[str, _Baseline]
    quantizer: _Quantizer


class _Communication(_Closed):
    bytes_up: _Count
    bytes_down: _Count
    rounds: _Count


class _MacroBaseline(_Scores):
    communication: _Communication | None = None  # of what markets train together alone


class _Macro(_Scores):
    ranking: _Ranked | None = None
    short_histories: dict[_Length, _Share | None] | None = None
    baselines: dict[str, _MacroBaseline]


class _NoisyMacro(_Closed):
    auc: float | None  # noise may take it out of its range
    auc_interval: _Interval | None
    logloss: float | None
    logloss_interval: _Interval | None
    baselines: dict[str, _Scores] = Field(max_length=0)


class _NoisyMarket(_NoisyMacro):
    auc_by_seed: list[float | None]
    n_users: _Count
    n_items: _Count


class _Catalogue(_Closed):
    kind: Literal["file", "discovered", "declared", "synthetic"]
    sha256: Digest
    size: _Count


class _Evaluation(_Closed):
    private: bool


class _Privacy(_Closed):
    catalogue: dict[str, _Catalogue]
    evaluation: _Evaluation
    markets: dict[str, dict[str, Any]]  # compared with what the ledgers give, field by field
    across_markets: dict[str, Any] | None = None  # and this with what the plans give


class _Metrics(_Closed):
    privacy: _Privacy
    communication: _Communication
    seconds: dict[Stage, float]
    memory: dict[Stage, int] = {}  # earlier runs do not say


class _Exact(_Metrics):
    markets: dict[str, _Market]
    macro: _Macro


class _Noisy(_Metrics):
    markets: dict[str, _NoisyMarket]
    macro: _NoisyMacro


class _Machine(_Closed):
    system: Version
    processor: Version
    vectors: Annotated[str, Field(pattern=r"^[A-Za-z0-9 .+_-]{1,40}$")]
    device: Annotated[str, Field(pattern=r"^[A-Za-z0-9 .+_()/-]{1,100}$")] = (
        "cpu"  # runs from before there was a choice
    )


class _Environment(_Closed):
    python: Version
    packages: dict[str, Version | None]
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None
    code: Digest
    machine: _Machine
    created: Time


def metrics_problems(config: Config, metrics: Mapping[str, Any]) -> Iterator[str]:
    """What metrics hold that a run with this configuration does not write, or lack."""
    kind: type[_Exact] | type[_Noisy] = _Noisy if config.private_evaluation else _Exact
    try:
        found = kind.model_validate(metrics)
    except ValidationError as error:
        yield _said(error)
        return
    if set(found.privacy.catalogue) != set(found.markets):
        yield "privacy.catalogue: is not of the markets that it has figures of"
    for name, told in (("seconds", found.seconds), ("memory", found.memory)):
        if config.privacy.epsilon is not None and told:
            yield f"{name}: says what stages took, which no budget pays for"
    known = {*config.ctr.baselines, _PUBLISHED_CODES}
    for name, market in found.markets.items():
        baselines = market.baselines.values() if isinstance(market, _Market) else ()
        if config.privacy.epsilon is not None and isinstance(market, _Market) and market.reading is not None:
            yield f"market {name}: says what was read, which no budget pays for"
        lists = [market.auc_by_seed, *(scores.auc_by_seed for scores in baselines)]
        if any(len(by_seed) not in (1, len(config.seed)) for by_seed in lists):
            yield f"market {name}: figures by seed of other than {len(config.seed)} seeds"
    for section in (found.macro, *found.markets.values()):
        for name in section.baselines.keys() - known:
            yield f"baseline {name!r:.100}: was not configured"
        if isinstance(section, _Market | _Macro):
            yield from _tasks(config, section)
    if isinstance(found.macro, _Macro):
        for name in (name for name, values in found.macro.baselines.items() if values.communication is not None):
            if name not in FIELD_BASELINES:
                yield f"baseline {name!r:.100}: is trained by each market, and has no communication"


def _tasks(config: Config, section: _Market | _Macro) -> Iterator[str]:
    """Figures of tasks that were not configured."""
    asked = set(map(str, config.evaluation.short_histories))
    if section.ranking is not None and not config.evaluation.ranked_users:
        yield "ranking: was not configured"
    if section.short_histories is not None and set(section.short_histories) != asked:
        yield "short_histories: other lengths than were configured"


def environment_problems(environment: Mapping[str, Any]) -> Iterator[str]:
    """What an environment says that no run writes, or does not say."""
    try:
        found = _Environment.model_validate(environment)
    except ValidationError as error:
        yield _said(error)
        return
    if set(found.packages) != set(PACKAGES):
        yield "packages: are not those that a run names"


def _said(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part)[:50] for part in first['loc'][:6])!r}: {first['msg'][:100]}"
