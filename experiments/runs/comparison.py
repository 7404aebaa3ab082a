"""Runs side by side: differences of AUC from the first, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from experiments.presentation.drawing import LINES, MARKERS, PALETTE, QUIET, Drawing, styled
from experiments.presentation.steps import track
from fedmm_secure.config.choices import CONFIGURED
from fedmm_secure.ctr.metrics import CONFIDENCE, Interval, paired_auc_difference
from fedmm_secure.data.candidates import Candidates
from fedmm_secure.data.market import FloatArray
from fedmm_secure.errors import ConfigError, RunDirectoryError
from fedmm_secure.foreign.formats import parse_table
from fedmm_secure.randomness import numpy_generator
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.run_directory import read_metrics
from privacy.foreign import ForeignDirectory

COMPARISON_TABLE = "comparison.parquet"


@dataclass(frozen=True)
class AUCDifference:
    """AUC of one run in one market, and its difference from the first run's.

    Attributes:
        run: name of the run.
        market: the market.
        auc: mean over seeds; None where the noise of private figures leaves nothing to say.
        difference: from the first run; None for that itself, and where the first run lacks the market.
        paired: whether both ranked the same candidates: a bootstrap over users, otherwise Welch's t over seeds.
    """

    run: str
    market: str
    auc: float | None
    difference: Interval | None
    paired: bool


def compare_runs(runs: Sequence[Path], model: str = CONFIGURED) -> list[AUCDifference]:
    """Differences of every run from the first, market by market.

    Raises:
        RunDirectoryError: not a finished run.
        ConfigError: a run lacks the model, or there is nothing to compare.
    """
    if len(runs) < 2:
        raise ConfigError("compare needs at least two runs")
    metrics = [_metrics_of(run, model) for run in runs]
    names = _names(runs)
    found = []
    for run, name, own in track("runs compared", zip(runs, names, metrics, strict=True), len(runs)):
        for market, values in own.items():
            first = metrics[0].get(market)
            difference, paired = None, False
            if run is not runs[0] and first is not None:
                # noisy figures say nothing of candidates: their runs are never paired, nor are predictions read
                ranked = [found.get("candidates") for found in (values, first)]
                paired = None not in ranked and ranked[0] == ranked[1]
                difference = _paired(run, runs[0], market, model) if paired else _unpaired(values, first, model)
            auc = _section(values, model)["auc"]
            found.append(AUCDifference(name, market, auc, difference, paired))
    return found


def _metrics_of(run: Path, model: str) -> Mapping[str, Any]:
    markets = read_metrics(run)["markets"]
    for values in markets.values():
        if model != CONFIGURED and model not in values["baselines"]:
            known = ", ".join([CONFIGURED, *values["baselines"]])
            raise ConfigError(f"--model {model}: {run} has {known}")
    return dict(markets)


def _section(values: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    return values if model == CONFIGURED else dict(values["baselines"][model])


def _paired(run: Path, first: Path, market: str, model: str) -> Interval:
    candidates, ours = predictions_of(run, market, model)
    _, theirs = predictions_of(first, market, model)
    return paired_auc_difference(candidates, ours, theirs, rng=numpy_generator("compare", market, model))


def predictions_of(run: Path, market: str, model: str) -> tuple[Candidates, list[FloatArray]]:
    """A run's test candidates in a market, and a model's probabilities, one array a seed."""
    directory, name = ForeignDirectory(run), RunDirectory().predictions(market).as_posix()
    if not directory.has(name):
        raise RunDirectoryError(f"{run / name}: missing; differences are computed from predictions")
    frame = parse_table(directory.bytes(name), run / name)
    candidates = Candidates(frame["user"].to_numpy(), frame["item"].to_numpy(), frame["label"].to_numpy())
    columns = [name for name in frame.columns if name.rsplit("/", 1)[0] == model]
    return candidates, [frame[name].to_numpy(dtype=np.float64) for name in columns]


def _unpaired(values: Mapping[str, Any], first: Mapping[str, Any], model: str) -> Interval | None:
    known = [_section(found, model)["auc_by_seed"] for found in (values, first)]
    if any(None in by_seed for by_seed in known):
        return None
    ours, theirs = (np.asarray(by_seed) for by_seed in known)
    mean = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2:
        return Interval(mean, None, None)
    bounds = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(CONFIDENCE)
    return Interval(mean, float(bounds.low), float(bounds.high))


def _names(runs: Sequence[Path]) -> list[str]:
    """A name of its own for each run, of one that is given twice too."""
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    if len(set(names)) < len(names):
        names = [f"{number}: {name}" for number, name in enumerate(names, start=1)]
    return names


def comparison_table(found: Sequence[AUCDifference]) -> pd.DataFrame:
    """One row for each run and market: ``run, market, auc, difference, low, high, paired``."""
    return pd.DataFrame(
        {
            "run": row.run,
            "market": row.market,
            "auc": row.auc,
            "difference": None if row.difference is None else row.difference.mean,
            "low": None if row.difference is None else row.difference.low,
            "high": None if row.difference is None else row.difference.high,
            "paired": row.paired,
        }
        for row in found
    ).astype({"auc": "float64", "difference": "float64", "low": "float64", "high": "float64"})


def records_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON; what is missing is null."""
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()} for row in table.to_dict("records")
    ]


@styled
def draw_comparison(table: pd.DataFrame) -> Drawing:
    """Differences from the first run, by market, with 95 % intervals."""
    shown = table[table["difference"].notna()]
    markets = list(dict.fromkeys(shown["market"]))
    runs = list(dict.fromkeys(shown["run"]))
    figure = Figure(figsize=(7.0, 1.6 + 0.28 * len(markets) * max(len(runs), 1)), layout="constrained")
    axes = figure.subplots()
    for index, run in enumerate(runs):
        own = shown[shown["run"] == run].set_index("market").reindex(markets)
        places = np.arange(len(markets)) + (index - (len(runs) - 1) / 2) * 0.7 / len(runs)
        low, high = own["difference"] - own["low"], own["high"] - own["difference"]
        errors = np.nan_to_num(np.stack([low, high]))
        at = index % len(PALETTE)
        axes.errorbar(own["difference"], places, xerr=errors, label=run, color=PALETTE[at], marker=MARKERS[at],
                      linestyle="none", capsize=3)  # fmt: skip
    axes.axvline(0.0, color=QUIET, linestyle=LINES[3])
    axes.set_yticks(range(len(markets)), markets)
    axes.invert_yaxis()
    axes.set_xlabel(f"test AUC minus that of {table['run'].iloc[0]}, 95 %")
    if runs:
        figure.legend(loc="outside upper center", frameon=False, fontsize=8)
    return Drawing("differences", "Differences in test AUC by market", figure, shown)
