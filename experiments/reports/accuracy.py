"""How accurate a run is beside what is comparable: differences, and summaries of many markets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from fedmm_secure.config import NOISY_BASELINES, Config
from fedmm_secure.config.choices import CONFIGURED

MANY_MARKETS = 12  # more of them are summarised
PairedOutcome = Literal["won", "lost", "undecided"]
Gain = Mapping[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """The run's model beside one baseline, mean of the markets.

    Attributes:
        baseline: its name.
        auc: its macro test AUC.
        gain: what the run's model adds to it: ``mean``, and ``low`` and ``high`` where there is an interval.
    """

    baseline: str
    auc: float
    gain: Gain

    @property
    def outcome(self) -> PairedOutcome:
        """Won, lost or undecided."""
        return outcome(self.gain)


def outcome(gain: Gain) -> PairedOutcome:
    """Whether a difference leaves 0 outside its 95 % interval, and on which side."""
    if gain["low"] is not None and gain["low"] > 0:
        return "won"
    return "lost" if gain["high"] is not None and gain["high"] < 0 else "undecided"


def comparable_baselines(config: Config, names: Sequence[str]) -> list[str]:
    """Baselines with the same protection and budget as the run's model.

    A model that may be published is compared with what may be published too: noisy counts that spend the whole budget.
    One that stays in its market, or has no budget, is compared with all that do.
    """
    return [name for name in names if (name in NOISY_BASELINES) == config.private_ctr]


def best_of(metrics: Mapping[str, Any], names: Sequence[str]) -> Comparison | None:
    """The most accurate of some baselines; None where none of them has a figure."""
    found = {name: metrics["macro"]["baselines"][name]["auc"] for name in names}
    known = {name: auc for name, auc in found.items() if auc is not None}
    if not known:
        return None
    best = max(known, key=lambda name: known[name])
    return Comparison(best, known[best], macro_gain(metrics["markets"], best))


def macro_gain(markets: Mapping[str, Any], baseline: str) -> Gain:
    """Mean over markets of the paired differences, and its interval.

    Users of markets are different people, so that the markets' errors are independent: half widths add up by squares.
    """
    gains = [values["baselines"][baseline]["auc_gain_over_it"] for values in markets.values()]
    mean = sum(gain["mean"] for gain in gains) / len(gains)
    if any(gain["low"] is None for gain in gains):
        return {"mean": mean, "low": None, "high": None}
    below = math.hypot(*(gain["mean"] - gain["low"] for gain in gains)) / len(gains)
    above = math.hypot(*(gain["high"] - gain["mean"] for gain in gains)) / len(gains)
    return {"mean": mean, "low": mean - below, "high": mean + above}


@dataclass(frozen=True)
class Spread:
    """Values of many markets in one line: the smallest, the middle one, the largest, and whose they are."""

    name: str
    smallest: float | None
    smallest_of: str
    middle: float | None
    largest: float | None
    largest_of: str


def auc_spreads(metrics: Mapping[str, Any]) -> list[Spread]:
    """Test AUC over the markets, of the run's model and of each baseline."""
    markets = metrics["markets"]
    own = {market: values["auc"] for market, values in markets.items()}
    others = {
        name: {market: values["baselines"][name]["auc"] for market, values in markets.items()}
        for name in metrics["macro"]["baselines"]
    }
    return [spread(name, values) for name, values in {CONFIGURED: own, **others}.items()]


def spread(name: str, values: Mapping[str, float | None]) -> Spread:
    """Of values by market; what is unknown of one is left out."""
    known = {market: value for market, value in values.items() if value is not None}
    if not known:
        return Spread(name, None, "", None, None, "")
    low, high = min(known, key=lambda market: known[market]), max(known, key=lambda market: known[market])
    return Spread(name, known[low], low, float(median(known.values())), known[high], high)


def outcomes(markets: Mapping[str, Any], baseline: str) -> dict[PairedOutcome, int]:
    """In how many markets the run's model beats a baseline, loses to it, or is not told from it."""
    found = [outcome(values["baselines"][baseline]["auc_gain_over_it"]) for values in markets.values()]
    return {"won": found.count("won"), "undecided": found.count("undecided"), "lost": found.count("lost")}
