"""How models age: trained before a date, tested in later periods, refitted or not, and what refits cost in ε."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.presentation.steps import track
from fedmm_secure.config import Config
from fedmm_secure.ctr.metrics import Interval, auc_difference, evaluate
from fedmm_secure.data.candidates import Candidates, Simulated, pair_keys, with_negatives
from fedmm_secure.data.market import FloatArray, IntArray, with_rows
from fedmm_secure.data.prepare import PreparedMarket, prepare, prepare_markets
from fedmm_secure.errors import DataError
from fedmm_secure.federation.closed_run import RunFiles
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.randomness import numpy_generator
from fedmm_secure.results.scorers import ReleasedScorer, Scorer, TrainedScorer
from fedmm_secure.storage.layout import RunDirectory
from privacy.accounting.guarantees import coarsely, view_guarantee
from privacy.accounting.ledger import read_ledger


@dataclass(frozen=True)
class DriftPoint:
    """One market in one period after the date.

    Attributes:
        market: its name.
        period: from 1; in the first, nothing has been refitted yet.
        positives: rows of the period that are tested: of users with rows before the date, of items in the first pool.
        popularity: test AUC of the order by training rows before the date.
        frozen: of the model that was trained before the date; histories of users reach up to the period.
        refitted: of one that was trained on all rows before the period, codes and all.
        gain: ``refitted`` minus ``frozen``, paired, over users.
        epsilon: of all that was released until then, without and with refits, against who gets models; None: no bound.
    """

    market: str
    period: int
    positives: int
    popularity: float
    frozen: float
    refitted: float
    gain: Interval
    epsilon: tuple[float | None, float | None]


def measure_drift(config: Config, folder: Path, *, before: float = 0.6, periods: int = 4) -> list[DriftPoint]:
    """Train before the date that a share of all markets' rows precedes, and before each period of as many rows.

    The dates come from the rows of all users: this is a measurement, by whoever has them, and nothing to release.

    Args:
        config: of every run; a budget is spent by each of them, and the privacy account hears of all.
        folder: of the runs.
        before: share of all rows before the date.
        periods: after it, with equally many rows.

    Raises:
        DataError: a market has no times, or too few rows before the date or in a period.
    """
    markets = prepare_markets(config.data)
    edges = period_edges(markets, before, periods)
    scorers: list[Mapping[str, Scorer]] = []
    first: dict[str, PreparedMarket] = {}
    points = []
    for period in track("periods", range(periods), periods):
        known = {name: until(prepared, config, int(edges[period])) for name, prepared in markets.items()}
        run = folder / f"period-{period + 1}"
        run_pipeline(config, known, run)
        scorers.append({name: _scorer(run, config, prepared) for name, prepared in known.items()})
        first = first or known
        for name, prepared in markets.items():
            drawn = candidates_of(prepared, first[name], (int(edges[period]), int(edges[period + 1])), config)
            runs = [folder / f"period-{number + 1}" for number in range(period + 1)]
            points.append(_point(name, period, drawn, known[name], first[name], (scorers[0], scorers[-1]), runs))
    return sorted(points, key=lambda point: (point.market, point.period))


def period_edges(markets: Mapping[str, PreparedMarket], before: float, periods: int) -> IntArray:
    """Starts of the periods, and the end of the last, ``(periods + 1,)``, in the unit of the markets' times."""
    for name, prepared in markets.items():
        if not prepared.market.has_time:
            raise DataError(f"market {name}: has no times; name a column of data.markets.{name}.time")
    times = np.concatenate([prepared.market.time for prepared in markets.values()])
    edges = np.quantile(times, np.linspace(before, 1.0, periods + 1), method="higher").astype(np.int64)
    edges[-1] += 1
    if len(np.unique(edges)) <= periods:
        raise DataError(f"{periods} periods: too many rows have the same time; ask for fewer")
    return np.asarray(edges, dtype=np.int64)


def until(prepared: PreparedMarket, config: Config, end: int) -> PreparedMarket:
    """A market as it was before a time; its users and its catalogue are those of the whole."""
    market = prepared.market
    found = prepare(with_rows(market, np.flatnonzero(market.time < end)), config.data)
    if found.lacking:
        raise DataError(f"before the date: {found.lacking}")
    return found


def candidates_of(whole: PreparedMarket, first: PreparedMarket, period: tuple[int, int], config: Config) -> Candidates:
    """Rows of a period with negatives that their users never touched; users and items that the first model knows."""
    market, pool = whole.market, first.pool
    rows = np.flatnonzero((market.time >= period[0]) & (market.time < period[1]))
    known = np.bincount(first.market.user, minlength=market.n_users) > 0
    rows = rows[known[market.user[rows]] & pool.contains(market.item[rows])]
    if not len(rows):
        raise DataError(f"market {market.name}: no rows to test in a period; ask for fewer")
    touched = pair_keys(market.user, market.item, market.n_items)
    rng = numpy_generator("drift", market.name, str(period[0]), config.data.candidate_seed)
    user, item = market.user[rows], market.item[rows]
    per_positive = config.data.negatives_per_positive
    return with_negatives(user, item, pool, touched, market.n_items, per_positive, Simulated(rng))


def _scorer(run: Path, config: Config, prepared: PreparedMarket) -> Scorer:
    files = RunFiles(run, prepared.market.name)  # of this process
    return ReleasedScorer(files, config) if config.private_ctr else TrainedScorer(files, config, prepared)


def _point(
    name: str,
    period: int,
    drawn: Candidates,
    known: PreparedMarket,
    first: PreparedMarket,
    scorers: tuple[Mapping[str, Scorer], Mapping[str, Scorer]],
    runs: Sequence[Path],
) -> DriftPoint:
    frozen, refitted = (scorer[name].on(known.market)(drawn.user, drawn.item) for scorer in scorers)
    counts = np.bincount(first.market.item[first.split.train], minlength=first.market.n_items)
    popularity: FloatArray = counts[drawn.item].astype(np.float64)
    return DriftPoint(
        market=name,
        period=period + 1,
        positives=int(drawn.label.sum()),
        popularity=evaluate(drawn, popularity / max(float(popularity.max()), 1.0)).auc,
        frozen=evaluate(drawn, frozen).auc,
        refitted=evaluate(drawn, refitted).auc,
        gain=auc_difference(drawn, [refitted], [frozen]).interval,
        epsilon=(released_epsilon(runs[:1], name), released_epsilon(runs, name)),
    )


def released_epsilon(runs: Sequence[Path], market: str) -> float | None:
    """ε of all that several runs released of a market, to a user who has rows in each; None where there is no bound."""
    entries = [entry for run in runs for entry in read_ledger(RunDirectory(run).ledger(market)).entries]
    return view_guarantee(entries, "release", accountant=coarsely).epsilon
