"""Whether an attack did better than a guarantee admits, at any threshold: a test whose false alarms are bounded.

**What is tested.** The pipelines of one block are attacked with what those outside it showed (``scores.blocks``), so
that the attack is fixed before them. Whether a unit is in a pipeline is a fair coin, independent of all others: ``N``
coins in each pipeline. A threshold is a number ``c`` of guesses: the ``c`` highest scores of a pipeline are said to be
members. ``A`` of them are right.

How many right guesses the guarantee's trade-off curve admits, and the proof: ``attacks.one_run``.

**Level.** In each pipeline ``A`` exceeds its limit with probability ``β`` at most; pipelines of a block are
independent, so the number of those that exceed it is at most binomial. Three in four must, and ``β`` is such that this
has probability ``REFUTATION_LEVEL`` over the number of tests: each ``c`` of a grid, both ways round (highest scores in,
lowest out), each block and each attack on the view. By the union bound a view whose guarantee holds is refuted with
that probability at most, whatever the dependence between tests. The grid is every threshold: among ``c`` guesses there
are no more right ones than among the next ``c'`` of the grid, so one that exceeds the limit of ``c'`` makes ``c'``
exceed it.

The limits are wider than those of units whose scores do not depend on each other, which no pipeline promises. What an
attack must reach to be seen stands beside each verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import dp_accounting
import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from attacks.membership.scores import Confidences, MemberMatrix, blocks
from attacks.metrics import POWER
from attacks.one_run import guess_counts, most_right
from privacy.accounting.tradeoff import TradeOffCurve

REFUTATION_LEVEL = 0.01
_LARGEST_MU = 60.0


@dataclass(frozen=True)
class Refutation:
    """What an attack says of a guarantee.

    Attributes:
        refuted: whether the attack did better than the guarantee admits.
        targets: units times pipelines.
        detects: the smallest ε, at the guarantee's δ, of a Gaussian mechanism whose best attack would have refuted the
            guarantee with 95 % power; None where not even one that is always right would have.
    """

    refuted: bool
    targets: int
    detects: float | None


def refute(
    scores: Confidences, member: MemberMatrix, curve: TradeOffCurve, delta: float, *, attacks: int = 1
) -> Refutation:
    """Hold an attack's scores ``(n_models, n_units)`` against a curve.

    Args:
        scores: higher where the attack believes in membership; those of each block made without its coins.
        member: fair coins, all independent, of the same shape.
        curve: of the guarantee, for worlds in which a unit is in and out.
        delta: at which ε is quoted.
        attacks: number of attacks on the view, which share the level.
    """
    parts = [targets for targets, _ in blocks(len(scores))]
    level = REFUTATION_LEVEL / (attacks * len(parts))
    refuted = any(_exceeds(scores[part], member[part], curve, level) for part in parts)
    smallest = min(len(part) for part in parts)
    return Refutation(refuted, scores.size, detectable(curve, smallest, scores.shape[1], level, delta))


def _exceeds(scores: Confidences, member: MemberMatrix, curve: TradeOffCurve, level: float) -> bool:
    """Whether enough pipelines have more right guesses than a curve admits, at any threshold."""
    order = np.argsort(scores, axis=1, kind="stable")  # of equal scores the first is the lower: known before the coins
    inside = np.take_along_axis(member, order, axis=1)
    guesses, limits = admitted(curve, *member.shape, level)
    right = np.cumsum(inside[:, ::-1], axis=1), np.cumsum(~inside, axis=1)
    above = [way[:, np.array(guesses) - 1] > np.array(limits) for way in right]
    return any(bool((way.sum(0) >= _enough(len(member))).any()) for way in above)


def _enough(pipelines: int) -> int:
    return -(-3 * pipelines // 4)


@lru_cache(maxsize=256)
def admitted(curve: TradeOffCurve, pipelines: int, coins: int, level: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of guesses in each pipeline, and how many of each may be right.

    With probability ``level`` at most, more are right in three of four pipelines, at any of them, either way round.
    """
    guesses, enough = guess_counts(coins), _enough(pipelines)
    each = float(stats.beta.ppf(level / (2 * len(guesses)), enough, pipelines - enough + 1))
    return guesses, tuple(most_right(curve, coins, count, each) for count in guesses)


@lru_cache(maxsize=256)
def detectable(curve: TradeOffCurve, pipelines: int, coins: int, level: float, delta: float) -> float | None:
    """The smallest ε of a mechanism whose best attack refutes a curve with 95 % power, by one block; None if none does.

    The mechanism is Gaussian for each unit by itself. Of the ``c`` units that score highest, a binomial number is in:
    given the next score, they are independent draws from above it.
    """
    guesses, limits = admitted(curve, pipelines, coins, level)
    useful = [(count, limit) for count, limit in zip(guesses, limits, strict=True) if limit < count <= 0.45 * coins]
    counts, most = np.array(useful, dtype=np.int64).reshape(-1, 2).T
    enough = _enough(pipelines)

    def power(mu: float) -> float:
        seen = stats.binom.sf(most, counts, _precision(mu, counts / coins))
        return float(np.max(stats.binom.sf(enough - 1, pipelines, seen), initial=0.0))

    if power(_LARGEST_MU) < POWER:
        return None
    mu = optimize.brentq(lambda mu: power(mu) - POWER, 0.0, _LARGEST_MU, xtol=1e-3)
    return float(dp_accounting.get_epsilon_gaussian(1.0 / mu, delta)) if mu > 0 else 0.0


def _precision(mu: float, share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the shares of units that score highest, members and others being ``N(μ, 1)`` and ``N(0, 1)``: members."""
    thresholds = np.linspace(mu + 10.0, -10.0, 20_000)
    members = 0.5 * stats.norm.sf(thresholds - mu)
    right = np.interp(share, members + 0.5 * stats.norm.sf(thresholds), members)
    return np.asarray(np.minimum(right / share, 1.0))
