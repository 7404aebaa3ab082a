"""Top items for users of one market, in blocks of users, from a run.

Items that a user's rows name are left out. Rows of items that the catalogue does not have say nothing and are left
out too; ``history`` tells how many rows remain, and of a user with none the order is that of the items alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from fedmm_secure.config import Config
from fedmm_secure.data.catalogue import Catalogue, read_catalogue
from fedmm_secure.data.market import FloatArray, Market, Rows
from fedmm_secure.data.prepare import PreparedMarket, prepare_one, within
from fedmm_secure.errors import DataError
from fedmm_secure.federation.closed_run import ClosedRun
from fedmm_secure.guarantee.stages import CATALOGUE
from fedmm_secure.recommending.accounts import accounts_of_rows, block, known_accounts, rows_of_frame
from fedmm_secure.results.scorers import ReleasedScorer, Scorer, TrainedScorer
from fedmm_secure.results.scoring import MarketScorer
from fedmm_secure.storage.run_directory import read_config

_COLUMNS = ["user", "rank", "item", "score", "history"]
PAIRS_AT_ONCE = 2**17  # (user, item) pairs whose features are in memory together


def predict(run: str | Path, market: str, users: Sequence[str], items: Sequence[str]) -> FloatArray:
    """Click probabilities ``(n,)`` of pairs of a market, from the directory of a finished run of your own.

    The mean over seeds; NaN for items outside the candidate pool, which under ``protect: release`` is the whole
    catalogue. The market's data are read where the run read them.

    Raises:
        DataError: a user or an item that the market does not have.
        RunDirectoryError: the run has not finished.
    """
    config = read_config(Path(run))
    return MarketScorer(Path(run), config, prepared_of_run(Path(run), config, market))(users, items)


def recommend(
    run: str | Path, market: str, users: Sequence[str], k: int = 10, history: pd.DataFrame | None = None
) -> pd.DataFrame:
    """The top ``k`` items for users of a market, from the directory of a finished run of your own.

    Args:
        run: the directory.
        market: the market's name.
        users: ids of users that the market's data hold, or who have rows in ``history``.
        k: items for each user, fewer where there are not as many.
        history: rows of users, with columns ``user``, ``item`` and, where known, ``time``. They take the place of what
            the market's data say of those users. Without times, their rows are the last thing that happened.

    Returns:
        A table with columns ``user``, ``rank`` from 1, ``item``, ``score`` (click probability, the mean over seeds) and
        ``history``, how many of the user's rows the scores rest on; users in the order given.

    Under ``protect: release`` the scores come from what the run published and from each user's own rows; where all
    users have rows in ``history``, the market's data are not read (but for a catalogue that was declared).

    Raises:
        DataError: a user without rows, no such market, rows that cannot be used, or ``k`` below 1.
        RunDirectoryError: the run has not finished.
    """
    directory = Path(run)
    config = read_config(directory)
    rows = None if history is None else rows_of_frame(history, config.data.missing)
    return Recommender(directory, config, market)(users, k, rows)


class Recommender:
    """Ranks the items of one market; models are loaded once, when they are first asked.

    Args:
        run: directory of a finished run.
        config: its configuration.
        market: the market's name.
        data: the market's data, where they are in memory.

    Raises:
        DataError: the run has no such market.
    """

    def __init__(self, run: Path, config: Config, market: str, data: PreparedMarket | None = None) -> None:
        self._run, self._config, self._market = run, config, market
        if market not in config.data.names:
            raise DataError(f"market {market}: the markets of {run} are {', '.join(config.data.names)}")
        self._data = data

    def __call__(self, users: Sequence[str], k: int = 10, history: Rows | None = None) -> pd.DataFrame:
        """See ``recommend``; ``history`` as the loader of market files gives it."""
        if k < 1:
            raise DataError(f"k: {k} items; at least 1")
        users = list(dict.fromkeys(map(str, users)))
        given = set() if history is None else set(history.user_ids)
        parts = []
        if history is not None and given & set(users):
            accounts = accounts_of_rows(self._market, history, self._catalogue)
            parts.append(known_accounts(accounts, [user for user in users if user in given]))
        if set(users) - given:
            parts.append(known_accounts(self._prepared.market, [user for user in users if user not in given]))
        tables = [table for accounts in parts for table in self._top(accounts, k)]
        found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=_COLUMNS)
        order = found["user"].map({user: position for position, user in enumerate(users)})
        return found.iloc[np.argsort(order.to_numpy(), kind="stable")].reset_index(drop=True)

    def knows_any(self, history: Rows) -> bool:
        """Whether a row names an item of the market."""
        return bool((self._catalogue.index(history.item_ids) >= 0).any())

    @cached_property
    def _prepared(self) -> PreparedMarket:
        return prepared_of_run(self._run, self._config, self._market, self._data)

    @cached_property
    def _scorer(self) -> Scorer:
        if self._config.private_ctr:
            return ReleasedScorer(ClosedRun(self._run, self._market), self._config)
        return TrainedScorer(ClosedRun(self._run, self._market), self._config, self._prepared)

    @cached_property
    def _catalogue(self) -> Catalogue:
        """The market's public items: without its rows, where that can be."""
        file = self._config.data.markets.get(self._market)
        if self._config.catalogue == "discovered":
            return discovered_catalogue(self._run, self._market)
        if self._data is None and file is not None and file.catalogue is not None:
            return read_catalogue(file.located(self._config.data.root or Path()).catalogue or file.catalogue)
        return self._prepared.catalogue

    def _top(self, accounts: Market, k: int) -> Iterator[pd.DataFrame]:
        """Tables of blocks of accounts, whose scores alone are in memory."""
        candidates, items = self._scorer.candidates, self._catalogue.items
        at_once = max(1, PAIRS_AT_ONCE // max(len(candidates), 1))
        for start in range(0, accounts.n_users, at_once):
            part = block(accounts, start, min(start + at_once, accounts.n_users))
            scores = _scores(self._scorer, part)
            place = np.searchsorted(candidates, part.item)
            seen = np.append(candidates, -1)[place] == part.item
            scores[part.user[seen], place[seen]] = -np.inf
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            value = np.take_along_axis(scores, best, axis=1)
            user, rank = np.nonzero(np.isfinite(value))
            yield pd.DataFrame(
                {
                    "user": part.user_ids[user],
                    "rank": rank + 1,
                    "item": items[candidates[best[user, rank]]],
                    "score": value[user, rank],
                    "history": np.bincount(part.user, minlength=part.n_users)[user],
                }
            )


def _scores(scorer: Scorer, accounts: Market) -> FloatArray:
    """Scores ``(n_users, n_candidates)`` of a block of accounts."""
    score, n, candidates = scorer.on(accounts), accounts.n_users, scorer.candidates
    at_once = max(1, PAIRS_AT_ONCE // max(n, 1))
    parts = [
        score(np.tile(np.arange(n), len(items)), np.repeat(items, n)).reshape(-1, n).T
        for items in np.split(candidates, range(at_once, len(candidates), at_once))
    ]
    return np.concatenate(parts, axis=1)


def prepared_of_run(run: Path, config: Config, market: str, data: PreparedMarket | None = None) -> PreparedMarket:
    """A market's data, read or as ``prepare`` made them, as far as the run's catalogue goes.

    Raises:
        DataError: they are not where the run read them.
    """
    if data is None:
        ClosedRun(run, market).refuse_other_sizes(config)
    prepared = prepare_one(config.data, market) if data is None else data
    if config.catalogue != "discovered":
        return prepared
    return within(prepared.whole, discovered_catalogue(run, market), config.data)


def discovered_catalogue(run: Path, market: str) -> Catalogue:
    """The items that a market discovered, as it published them."""
    return Catalogue.of("discovered", ClosedRun(run, market).publication(CATALOGUE).decode().splitlines())
