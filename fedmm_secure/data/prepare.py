"""From a configuration to markets that are ready: split, candidate pool, evaluation candidates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmm_secure.config import DataConfig, MarketFile
from fedmm_secure.data.candidates import (
    Candidates,
    Pool,
    candidate_pool,
    click_candidates,
    like_candidates,
)
from fedmm_secure.data.catalogue import Catalogue
from fedmm_secure.data.loaders import load_market, load_rows
from fedmm_secure.data.market import (
    FloatArray,
    IntArray,
    Market,
    Rows,
    rank_from_latest,
    refuse_disorder,
    restrict,
)
from fedmm_secure.data.same_rows import refuse_same, same_files, same_rows
from fedmm_secure.data.splits import Split, global_date, leave_last_out
from fedmm_secure.data.synthetic import synthesize, synthesize_one
from fedmm_secure.errors import DataError
from fedmm_secure.randomness import numpy_generator
from fedmm_secure.storage.digests import arrays_digest


@dataclass(frozen=True)
class WholeMarket:
    """All rows of a market, whatever its catalogue, and what is drawn from them; items by index among those found.

    Every model is measured on ``test``, so that figures under different catalogues are comparable. Nothing is trained
    on it or released from it.
    """

    market: Market
    split: Split
    pool: Pool
    valid: Candidates
    test: Candidates


@dataclass(frozen=True)
class PreparedMarket:
    """A market with all that every model shares.

    Attributes:
        market: the catalogue's items and their rows: all that anything is trained on or released from.
        split: of those rows.
        pool: of those items.
        valid: candidates among those items.
        test: the same; a model predicts these, and ``complete`` adds the others.
        whole: all rows, those of items outside the catalogue too.
        prior: a candidate's chance to be a positive, by the configuration.
        lacking: why nothing can be trained or measured on these rows; None where it can. It depends on single rows: a
            market that takes part in a federation must not answer otherwise for it. Its own models then say ``prior``.
    """

    market: Market
    split: Split
    pool: Pool
    valid: Candidates
    test: Candidates
    whole: WholeMarket
    prior: float = 0.5
    lacking: str | None = None

    @property
    def catalogue(self) -> Catalogue:
        """The public items."""
        return stated_catalogue(self.market)

    @property
    def test_items(self) -> IntArray:
        """Index in the catalogue of the item of each candidate of ``whole.test``, ``(n,)``; -1 outside."""
        return self.catalogue.index(self.whole.market.item_ids)[self.whole.test.item]

    def usable(self) -> PreparedMarket:
        """The same; raises ``DataError`` where it is ``lacking``: for whoever tells nobody but the rows' owner."""
        if self.lacking:
            raise DataError(self.lacking)
        return self

    @property
    def rows_outside(self) -> int:
        """Rows of items that the catalogue does not have; private, for their owner's eyes alone."""
        return self.whole.market.n_rows - self.market.n_rows

    def complete(self, probability: FloatArray) -> FloatArray:
        """Predictions of ``whole.test (n,)`` from those of ``test``.

        A model knows nothing of an item outside the catalogue: all of them get its prior, the mean of its predictions.
        That mean is over all users, so this is for exact figures alone, which are outside the guarantee.
        """
        inside = self.test_items >= 0
        found = np.full(len(inside), probability.mean() if len(probability) else self.prior)
        found[inside] = probability
        return found


def load_markets(config: DataConfig) -> list[Market]:
    """Markets of a configuration, by name, each as far as its catalogue goes."""
    return [restrict(market, stated_catalogue(market)) for market in _whole_markets(config)]


def _whole_markets(config: DataConfig) -> list[Market]:
    if config.synthetic is not None:
        return [planted.market for planted in synthesize(config.synthetic)]
    return [load_one_market(config, name) for name in sorted(config.markets)]


def market_paths(config: DataConfig) -> dict[str, Path]:
    """The files of the markets' rows, by market; none of generated markets."""
    root = config.root or Path()
    return {name: file.located(root).path for name, file in sorted(config.markets.items())}


def load_one_market(config: DataConfig, name: str) -> Market:
    """One market of a configuration with all its rows; its files alone are read.

    Raises:
        DataError: it is not one of the configuration's market files, or the file cannot be used.
    """
    if name not in config.markets:
        raise DataError(f"market {name}: data.markets names {', '.join(sorted(config.markets)) or 'no files'}")
    file = config.markets[name].located(config.root or Path())
    return load_market(
        file, name, on_bad_rows=config.on_bad_rows, missing=config.missing, large_share=config.large_share
    )


def load_history(config: DataConfig, name: str, path: Path) -> Rows:
    """Rows of users of a market in another file, of which there may be few, read as the market's own file is.

    The columns are that file's; of a generated market, those that ``fedmm data synthesize`` writes.

    Raises:
        DataError: the file cannot be used.
    """
    own = config.markets.get(name)
    if own is None:
        file = MarketFile(path=path, user="user", item="item", time="time")
    else:
        file = own.model_copy(update={"path": path, "catalogue": None, "rating": None})
    return load_rows(file, name, on_bad_rows=config.on_bad_rows, missing=config.missing)


def stated_catalogue(market: Market) -> Catalogue:
    """The catalogue that came with a market's rows; without one, the items found in them, declared to be public."""
    return market.catalogue or Catalogue("declared", market.item_ids)


def prepare_markets(config: DataConfig) -> dict[str, PreparedMarket]:
    """Load and prepare all markets.

    Whoever calls this has the rows of all markets: being told what is wrong with them tells nobody else.

    Raises:
        DataError: before anything has been written; also where nothing is left to train or measure on.
    """
    files = market_paths(config)
    refuse_same(same_files(files))
    markets = _whole_markets(config)
    refuse_same(same_rows(markets, files))
    return {market.name: prepare(market, config).usable() for market in markets}


def prepare_one(config: DataConfig, name: str) -> PreparedMarket:
    """Load, or generate, and prepare one market; the files of no other are read."""
    if config.synthetic is not None:
        return prepare(synthesize_one(config.synthetic, config.names.index(name)).market, config)
    return prepare(load_one_market(config, name), config)


def prepare(market: Market, config: DataConfig) -> PreparedMarket:
    """Split a market and draw its candidates, once and the same for every model.

    Raises:
        DataError: its rows are not in order.
    """
    refuse_disorder(market)
    split = leave_last_out(market) if config.split == "leave-last-out" else global_date(market)
    pool = candidate_pool(market, split, min_item_train=config.min_item_train, negatives=config.negatives)
    parts = {}
    for name, rows in (("valid", split.valid), ("test", split.test)):
        if config.label == "like":
            parts[name] = like_candidates(market, rows, pool, threshold=config.like_threshold)
        else:
            rng = numpy_generator("candidates", market.name, name, config.candidate_seed)
            parts[name] = click_candidates(market, rows, pool, per_positive=config.negatives_per_positive, rng=rng)
    return within(WholeMarket(market, split, pool, parts["valid"], parts["test"]), stated_catalogue(market), config)


def within(whole: WholeMarket, catalogue: Catalogue, config: DataConfig) -> PreparedMarket:
    """A market as far as a catalogue goes; what is measured stays the same."""
    index = catalogue.index(whole.market.item_ids)
    kept = index[whole.market.item] >= 0
    row = np.cumsum(kept) - 1
    split = Split(*(row[rows[kept[rows]]] for rows in (whole.split.train, whole.split.valid, whole.split.test)))
    market = restrict(whole.market, catalogue)
    pool = candidate_pool(market, split, min_item_train=config.min_item_train, negatives=config.negatives)
    parts = {}
    for name, drawn in (("valid", whole.valid), ("test", whole.test)):
        inside = index[drawn.item] >= 0
        parts[name] = Candidates(drawn.user[inside], index[drawn.item[inside]], drawn.label[inside])
    prior = 1 / (1 + config.negatives_per_positive) if config.label == "click" else 0.5
    labels = {"train": _learned(market, split, pool, config), **{name: found.label for name, found in parts.items()}}
    lacking = _lacking(market, (whole.pool, pool), labels, config)
    return PreparedMarket(market, split, pool, parts["valid"], parts["test"], whole, prior, lacking)


def _learned(market: Market, split: Split, pool: Pool, config: DataConfig) -> FloatArray:
    """Labels ``(n,)`` of examples that every model has to learn from: users' latest training rows, after others."""
    user, n_users = market.user[split.train], market.n_users
    latest = (np.bincount(user, minlength=n_users)[user] > 1) & (rank_from_latest(user, n_users) == 0)
    found = like_candidates(market, split.train[latest], pool, threshold=config.like_threshold)
    if config.label == "like":
        return found.label
    met = np.bincount(user[pool.contains(market.item[split.train])], minlength=n_users)
    return np.repeat([1.0, 0.0], np.count_nonzero(met[found.user] < len(pool.items)))  # one has a negative, or is none


def _lacking(market: Market, pools: Sequence[Pool], labels: Mapping[str, FloatArray], config: DataConfig) -> str | None:
    """What is missing to train or measure anything, and what to do."""
    needed = f"{config.min_item_train} training interactions; lower data.min_item_train or bring more rows"
    fewest = min(len(pool.items) for pool in pools)
    if fewest <= config.negatives_per_positive:
        return f"market {market.name}: only {fewest} items have {needed}"
    for name, found in labels.items():
        if len(np.unique(found)) < 2:
            missing = "negatives" if found.any() else "positives"
            return f"market {market.name}: the {name} part has no {missing} among items with {needed}"
    return None


def sizes(prepared: PreparedMarket) -> dict[str, Any]:
    """Sizes of a market, and of the pool and the candidates that models are measured on."""
    market, whole = prepared.market, prepared.whole
    return {
        "n_rows": market.n_rows,
        "n_users": market.n_users,
        "n_items": market.n_items,
        "n_train": len(prepared.split.train),
        "n_pool": len(whole.pool.items),
        "pool_test_share": whole.pool.test_share,
        "n_test": len(whole.test),
        "n_test_positives": int(whole.test.label.sum()),
        "skipped_rows": market.skipped_rows,
    }


def market_digest(prepared: PreparedMarket) -> str:
    """Hash of a market's rows, split, pool and candidates."""
    market, split, pool = prepared.market, prepared.split, prepared.pool
    digest = hashlib.sha256(f"{market.name} {market.has_time} {market.calendar}".encode())
    for ids in (market.user_ids, market.item_ids):
        for identifier in ids.tolist():
            text = str(identifier).encode()
            digest.update(len(text).to_bytes(4, "big") + text)
    rows = (market.user, market.item, market.rating, market.time)
    return arrays_digest(
        *rows, split.train, split.valid, split.test, pool.items, pool.weights, start=digest.digest(),
    ) + prepared.valid.sha256() + prepared.test.sha256()  # fmt: skip
