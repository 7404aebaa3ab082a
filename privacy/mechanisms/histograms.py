"""Noisy histograms of scores by label: every user contributes a bounded number of labelled scores to each.

Whatever is computed from them, an AUC say, is post-processing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from privacy.arrays import FloatArray, IntArray
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.randomness import NoiseSource

LABELS = 2  # negative, positive


@dataclass(frozen=True)
class Contribution:
    """What one user contributes to the histograms of one model, at most."""

    positives: int
    negatives: int

    def __post_init__(self) -> None:
        if self.positives < 1 or self.negatives < 1:
            raise ValueError("a contribution has at least one positive and one negative")

    @property
    def weights(self) -> tuple[int, int]:
        """Integer weight of one negative and of one positive, so that all of either weigh the same.

        An AUC is as sensitive to noise in the one as in the other, relative to their numbers; with equal weights a
        user's four negatives would use up the bound on a user's vector, and the positives drown.
        """
        common = math.gcd(self.positives, self.negatives)
        return self.positives // common, self.negatives // common

    @property
    def squared_norm(self) -> int:
        """Largest squared L2 norm of a user's weighted counts for one model: all of a label in one bin."""
        negative, positive = self.weights
        return (self.negatives * negative) ** 2 + (self.positives * positive) ** 2


@dataclass(frozen=True)
class ScoreHistograms:
    """What is released.

    Attributes:
        counts: ``(n_models, 2, n_bins)``, noisy, of negatives and of positives; some are below zero.
        noise: standard deviation of the noise on one count, ``(2,)``.
        spare: ``(spare,)``, noise alone, in grid units.
    """

    counts: FloatArray
    noise: tuple[float, float]
    spare: IntArray


@dataclass(frozen=True)
class ScoredExamples:
    """What is counted.

    Attributes:
        user: whose example it is, ``(n,)``.
        label: 0 or 1, ``(n,)``.
        scores: ``(n_models, n)``; one that is not a number falls into the last bin.

    Raises:
        ValueError: scores do not fit the examples, or a label is neither 0 nor 1.
    """

    user: IntArray
    label: IntArray
    scores: FloatArray

    def __post_init__(self) -> None:
        if self.scores.ndim != 2 or not self.scores.shape[1] == len(self.user) == len(self.label):
            raise ValueError("one user, one label and one score for each model and example are expected")
        if not np.isin(self.label, (0, 1)).all():
            raise ValueError("labels of 0 and 1 are expected")


def bounded_counts(examples: ScoredExamples, edges: FloatArray, most: Contribution) -> IntArray:
    """Counts ``(n_models, 2, n_bins)`` of scores by label; of a user's, the first ones up to ``most`` of each label.

    Which of a user's examples are counted follows from the order of that user's own, so a user who comes or goes
    changes nothing of what others contribute.

    Args:
        examples: in the order in which a user's own count.
        edges: public, ascending, ``(n_bins - 1,)``; the outer bins are open.
        most: what a user contributes at most.
    """
    user, label, scores, n_bins = examples.user, examples.label, examples.scores, len(edges) + 1
    kept = np.zeros(len(user), dtype=bool)
    for value, limit in ((0, most.negatives), (1, most.positives)):
        own = np.flatnonzero(label == value)
        order = own[np.argsort(user[own], kind="stable")]
        _, start, count = np.unique(user[order], return_index=True, return_counts=True)
        place = np.arange(len(order)) - np.repeat(start, count)
        kept[order[place < limit]] = True
    found = np.zeros((len(scores), LABELS, n_bins), dtype=np.int64)
    for histogram, values in zip(found, scores, strict=True):
        cell = label[kept] * n_bins + np.searchsorted(edges, values[kept], side="right")
        histogram += np.bincount(cell, minlength=LABELS * n_bins).reshape(LABELS, n_bins)
    return found


def noisy_score_histograms(
    examples: ScoredExamples,
    edges: FloatArray,
    most: Contribution,
    noise_multiplier: float,
    noise: NoiseSource,
    *,
    spare: int = 0,
) -> ScoreHistograms:
    """``bounded_counts`` with discrete Gaussian noise; one Gaussian mechanism of ``noise_multiplier``, for all models.

    A user's integers over all models have a squared norm of at most ``n_models · most.squared_norm · unit²``, an
    integer that ``unit`` keeps within the grid's bound; nothing is rounded on the way.

    The guarantee is that of the scores' users as long as each score follows from its user's own rows and from what was
    released before: the scores of a model that was trained without privacy carry other users' rows.

    Raises:
        ValueError: edges do not ascend, or the noise is so large that a count would be less than a grid unit.
    """
    if not (np.diff(edges) > 0).all():
        raise ValueError("edges have to ascend")
    n_models, levels = len(examples.scores), Grid.of(noise_multiplier).levels
    weights = grid_weights(noise_multiplier, n_models, most)
    counts = bounded_counts(examples, edges, most)
    # int64 holds the sum of 2^32 users: each moves an entry by less than 2^31, the square root of the grid's bound
    total = counts * weights[:, None]
    drawn = noise.discrete_gaussian(total.size + spare, levels=levels)
    noisy = total + drawn[: total.size].reshape(total.shape)
    return ScoreHistograms(noisy / weights[:, None], noise_of(noise_multiplier, n_models, most), drawn[total.size :])


def grid_weights(noise_multiplier: float, n_models: int, most: Contribution) -> IntArray:
    """Grid units that one negative and one positive count for, ``(2,)``: public.

    Raises:
        ValueError: the noise is so large that a count would be less than a grid unit.
    """
    unit = math.isqrt(Grid.of(noise_multiplier).squared_bound // (n_models * most.squared_norm))
    if unit < 1:
        raise ValueError(f"a noise multiplier of {noise_multiplier} leaves no grid unit for a count")
    return unit * np.array(most.weights, dtype=np.int64)


def noise_of(noise_multiplier: float, n_models: int, most: Contribution) -> tuple[float, float]:
    """Standard deviation of the noise on a count of negatives and of positives: public."""
    weights = grid_weights(noise_multiplier, n_models, most)
    deviation = scale(Grid.of(noise_multiplier).levels)
    return deviation / float(weights[0]), deviation / float(weights[1])
