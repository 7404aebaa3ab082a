"""The law of what a canary shows where a mechanism is what it is said to be.

In units of a user's largest contribution, one step shows ``x = B · length + σ Z``: ``Z`` standard normal, ``B`` the
coin of Poisson sampling, ``length`` what the canary contributes. Everything is known but ``Z`` and ``B``, so values can
be turned into standard normal ones, exactly; an audit then needs no distribution of its own.

Noise is discrete and contributions are cut to a grid, so values are known to within a *slack*. The quantile coupling of
a discrete Gaussian of scale S with ``N(0, S²)`` never differs by more than one grid unit: left of zero the density
rises, so ``Φ(k/S) <= P(K <= k) <= Φ((k+1)/S)`` term by term; right of it by symmetry. Whatever reads values with
weights ``a`` is therefore within ``Σ|a| / S`` standard deviations of the continuous law.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Values = NDArray[np.float64]
Members = NDArray[np.bool_]
_REACH = 14.0  # standard deviations within which all mass lies that double precision can tell from none
_POINTS = 4001  # of an integral over one step's values: smooth and of bounded support, so errors are below 1e-9
_WINDOW = 20.0  # standard deviations of a sum's law to either side
_CELLS = 20_000  # of that law for each step, so that rounding them all adds up to a thousandth of a deviation
_MOST_CELLS = 2**22
_ROUGH_CELLS = 2**14  # where power is computed, not a level
_SURE = 7.0  # normal score of what that law, summed in double precision, cannot tell from certainty


@dataclass(frozen=True)
class Law:
    """Gaussian noise on Poisson samples.

    Attributes:
        noise_multiplier: standard deviation of the noise over a user's largest contribution.
        rate: of Poisson sampling; 1 where nothing is sampled.
        steps: independent values that a canary shows.
    """

    noise_multiplier: float
    rate: float = 1.0
    steps: int = 1

    def ratio(self, seen: Values, length: float | Values = 1.0) -> Values:
        """Log-likelihood ratio of values ``(…)`` of single steps, "in" over "out"."""
        exponent = (seen * length - 0.5 * np.square(length)) / self.noise_multiplier**2
        with np.errstate(divide="ignore"):
            return np.asarray(np.logaddexp(np.log1p(-self.rate), np.log(self.rate) + exponent))

    def normal_scores(self, seen: Values, member: Members | bool, length: float | Values = 1.0) -> Values:
        """Standard normal values ``(…)``, increasing in what was seen, given whether the canary was in.

        They move no faster than ``seen / σ``: with ``I = φ∘Φ⁻¹``, which is concave, a mixture's density at a value is
        ``Σ w_i I(F_i) / σ <= I(Σ w_i F_i) / σ``. So a slack of the values is one of the scores.
        """
        sigma = self.noise_multiplier
        outside = seen / sigma
        if self.rate >= 1.0:
            return np.asarray(np.where(member, (seen - length) / sigma, outside))
        sampled = (seen - length) / sigma
        low = _mixed(self.rate, special.log_ndtr(outside), special.log_ndtr(sampled))
        high = _mixed(self.rate, special.log_ndtr(-outside), special.log_ndtr(-sampled))
        inside = np.where(low < high, special.ndtri_exp(low), -special.ndtri_exp(high))
        return np.asarray(np.where(member, inside, outside))

    def weight_scores(self, ratios: Values, slack: float = 0.0) -> Values:
        """Of canaries that were in: sums of ratios ``(n,)`` over all steps, as values no larger than standard normal.

        Larger ones than that speak for a canary that moved the release further than it may. Ratios are what tells most;
        their law is the convolution of one step's, on a grid. Each ratio is within half a cell of the grid's, which is
        taken off, and so is the slack.

        Args:
            ratios: summed over the steps.
            slack: of a step's value over σ.
        """
        sigma = self.noise_multiplier
        if self.rate >= 1.0:
            centre, width = 0.5 * self.steps / sigma**2, np.sqrt(self.steps) / sigma
            return np.asarray((ratios - centre) / width - np.sqrt(self.steps) * slack)
        found = _sums(self, min(_MOST_CELLS, int(2 ** np.ceil(np.log2(_CELLS * self.steps)))))
        lowered = ratios - self.steps * (0.5 * found.cell + slack / sigma)  # a ratio rises by 1/σ² a unit at most
        at = np.floor((lowered - found.first) / found.cell).astype(np.int64)
        scores = found.scores[np.clip(at, 0, len(found.scores) - 1)]
        return np.asarray(np.where(at < 0, -_SURE, scores))

    def spread(self, factor: float) -> tuple[float, float]:
        """Mean and variance of one squared normal score, over coins and noise of ``factor`` times the stated size."""
        return _spread(self, factor)

    def shift(self, length: float) -> tuple[float, float]:
        """Mean and standard deviation of a weight score where a canary weighs ``length`` times what it may."""
        return _shift(self, length)

    def _moments(self, length: float) -> tuple[float, float]:
        """Mean and standard deviation of one step's ratio where the canary is in and weighs ``length``."""
        seen, weight = self._step(length, 1.0)
        ratios = self.ratio(seen)
        mean = float(ratios @ weight)
        return mean, float(np.sqrt(np.square(ratios - mean) @ weight))

    def _step(self, length: float, factor: float) -> tuple[Values, Values]:
        """Values of one step of a canary that is in, and their probabilities; ``(points,)`` each."""
        normal = np.linspace(-_REACH, _REACH, _POINTS)
        mass = stats.norm.pdf(normal)
        mass /= mass.sum()
        noise = factor * self.noise_multiplier * normal
        return np.concatenate([noise, noise + length]), np.concatenate([(1.0 - self.rate) * mass, self.rate * mass])


@dataclass(frozen=True)
class _Sums:
    """The law of the sum of all steps' ratios, in cells of one size from ``first`` on.

    Attributes:
        first: the value of the first cell.
        cell: size of each.
        mass: ``(cells,)``, probabilities.
        scores: ``(cells,)``, normal scores of all up to a cell.
    """

    first: float
    cell: float
    mass: Values
    scores: Values


@lru_cache(maxsize=256)
def _sums(law: Law, cells: int, length: float = 1.0) -> _Sums:
    """Of a canary that is in and weighs ``length``; cells are those of one that weighs what it may."""
    mean, width = law._moments(1.0)
    middle, reach = law.steps * mean, _WINDOW * width * np.sqrt(law.steps)
    cell = 2.0 * reach / cells
    sigma, rate = law.noise_multiplier, law.rate
    # one step: cell k holds ratios within half a cell of k · cell
    least = np.log1p(-rate)
    most = float(law.ratio(np.array(length + _REACH * sigma)))
    first = int(np.floor(least / cell))
    edges = (np.arange(first, int(np.ceil(most / cell)) + 2) - 0.5) * cell
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        seen = 0.5 + sigma**2 * (np.log(np.expm1(edges - least)) + np.log1p(-rate) - np.log(rate))
    seen = np.where(edges <= least, -np.inf, seen)
    below = (1.0 - rate) * special.ndtr(seen / sigma) + rate * special.ndtr((seen - length) / sigma)
    below[0], below[-1] = 0.0, 1.0
    one = np.zeros(cells)
    np.add.at(one, np.arange(len(edges) - 1) % cells, np.diff(below))
    # the sum of all steps, modulo the window: beyond it lies a mass below 1e-10 (Chernoff), for noise from .5 on
    mass = np.fft.irfft(np.fft.rfft(one) ** law.steps, cells).clip(min=0.0)
    start = int(np.floor((middle - reach) / cell))
    mass = np.roll(mass, -((start - law.steps * first) % cells))
    low, high = np.cumsum(mass), np.cumsum(mass[::-1])[::-1]  # up to this cell; from it on
    above = np.append(high[1:], 0.0)
    with np.errstate(divide="ignore"):
        scores = np.where(low < 0.5, special.ndtri(low), -special.ndtri(above))
    return _Sums(start * cell, cell, mass, np.clip(scores, -_SURE, _SURE))


@lru_cache(maxsize=1024)
def _spread(law: Law, factor: float) -> tuple[float, float]:
    outside = factor**2, 2.0 * factor**4
    if law.rate >= 1.0:
        return outside
    seen, weight = law._step(1.0, factor)
    squares = np.square(law.normal_scores(seen, True))
    mean = float(squares @ weight)
    inside = mean, float(np.square(squares - mean) @ weight)
    between = 0.25 * (inside[0] - outside[0]) ** 2  # half of the canaries are in
    return 0.5 * (inside[0] + outside[0]), 0.5 * (inside[1] + outside[1]) + between


@lru_cache(maxsize=1024)
def _shift(law: Law, length: float) -> tuple[float, float]:
    if law.rate >= 1.0:
        return float(np.sqrt(law.steps) * (length - 1.0) / law.noise_multiplier), 1.0
    (stated, width), (mean, wider) = law._moments(1.0), law._moments(length)
    moved = float(np.sqrt(law.steps) * (mean - stated) / width)
    if moved > 0.5 * _WINDOW:
        return moved, wider / width
    scores, mass = _sums(law, _ROUGH_CELLS).scores, _sums(law, _ROUGH_CELLS, length).mass
    found = float(scores @ mass)
    return found, float(np.sqrt(np.square(scores - found) @ mass))


def _mixed(rate: float, first: Values, second: Values) -> Values:
    """Logarithm of a mixture's distribution function."""
    return np.asarray(np.logaddexp(np.log1p(-rate) + first, np.log(rate) + second))
