"""What one user moves in noisy score histograms, by brute force; and the noise itself."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.histograms import Contribution, ScoredExamples, bounded_counts, noisy_score_histograms
from privacy.mechanisms.randomness import NoiseSource

EDGES = np.array([0.0])


class Silent:
    """Noise of 0, to see what is summed."""

    def discrete_gaussian(self, count, *, levels):
        return np.zeros(count, dtype=np.int64)


def integers(user, label, scores, most, noise_multiplier):
    """The sums in grid units."""
    found = noisy_score_histograms(ScoredExamples(user, label, scores), EDGES, most, noise_multiplier, Silent())
    units = scale(Grid.of(noise_multiplier).levels) / np.array(found.noise)
    return found.counts * units[:, None]


@pytest.mark.parametrize("most", [Contribution(1, 1), Contribution(1, 2), Contribution(2, 1)])
@pytest.mark.parametrize("noise_multiplier", [0.5, 4.0, 333.3])
def test_no_user_moves_the_sums_by_more_than_the_bound_and_some_user_does(most, noise_multiplier):
    """Every user with up to four examples, in front of, among and behind those of another."""
    bound, reached = Grid.of(noise_multiplier).squared_bound, 0.0
    other_user, other_label = np.array([0, 0]), np.array([1, 0])
    for n in range(5):
        cells = list(product((0, 1), (-1.0, 1.0), (-1.0, 1.0)))  # label, and the score of either model
        for chosen in product(cells, repeat=n) if n < 4 else [[cell] * n for cell in cells]:
            label = np.array([cell[0] for cell in chosen], dtype=np.int64)
            scores = np.array([cell[1:] for cell in chosen]).reshape(n, 2).T
            both = (
                np.concatenate([np.full(n, 7), other_user]),
                np.concatenate([label, other_label]),
                np.concatenate([scores, [[0.5, -0.5], [0.5, 0.5]]], axis=1),
            )
            with_user = integers(*both, most, noise_multiplier)
            without = integers(other_user, other_label, np.array([[0.5, -0.5], [0.5, 0.5]]), most, noise_multiplier)
            moved = float(((with_user - without) ** 2).sum())
            assert moved <= bound * (1 + 1e-12)
            reached = max(reached, moved)
    assert reached > 0.98 * bound  # the noise is not wasted either


def test_a_user_who_leaves_takes_along_own_counts_alone():
    rng = np.random.default_rng(0)
    most = Contribution(2, 3)
    for _ in range(50):
        n = int(rng.integers(1, 60))
        user, label = rng.integers(0, 6, n), rng.integers(0, 2, n)
        scores, edges = rng.normal(size=(2, n)), np.array([-1.0, 0.0, 1.0])
        everyone = bounded_counts(ScoredExamples(user, label, scores), edges, most)
        own = user == user[0]
        alone = bounded_counts(ScoredExamples(user[own], label[own], scores[:, own]), edges, most)
        others = bounded_counts(ScoredExamples(user[~own], label[~own], scores[:, ~own]), edges, most)
        np.testing.assert_array_equal(everyone, alone + others)
        assert (alone.sum(axis=2) <= [most.negatives, most.positives]).all()


def test_counts_are_those_of_numpy_where_nobody_has_too_many():
    rng = np.random.default_rng(1)
    user, label, scores = np.arange(500), rng.integers(0, 2, 500), rng.normal(size=(1, 500))
    edges = np.linspace(-2, 2, 9)
    found = bounded_counts(ScoredExamples(user, label, scores), edges, Contribution(1, 4))
    for value in (0, 1):
        expected, _ = np.histogram(scores[0, label == value], np.concatenate([[-np.inf], edges, [np.inf]]))
        np.testing.assert_array_equal(found[0, value], expected)


def test_a_score_that_is_not_a_number_moves_no_more_than_any_other():
    examples = ScoredExamples(np.array([0, 0]), np.array([0, 1]), np.array([[np.nan, np.inf]]))
    found = bounded_counts(examples, EDGES, Contribution(1, 1))
    assert found.tolist() == [[[0, 1], [0, 1]]]


def test_the_noise_has_the_stated_size():
    """Chi-square of 20,000 values of either label; false alarm 1e-6."""
    n, most = 10_000, Contribution(1, 4)
    edges = np.arange(n - 1, dtype=np.float64)
    found = noisy_score_histograms(
        ScoredExamples(np.array([0]), np.array([1]), np.array([[0.5]])),
        edges,
        most,
        3.0,
        NoiseSource.from_seed(4),
        spare=n,
    )
    assert found.noise == pytest.approx([3.0 * np.sqrt(2) * 4, 3.0 * np.sqrt(2)], rel=1e-3)
    limits = stats.chi2.ppf([5e-7 / 3, 1 - 5e-7 / 3], n) / n
    noise = [found.counts[0, 0] / found.noise[0], found.counts[0, 1] / found.noise[1]]
    noise[1][1] -= 1 / found.noise[1]  # the one positive
    for values in (*noise, found.spare / scale(2)):
        assert limits[0] < float((values**2).mean()) < limits[1]


@pytest.mark.parametrize(
    ("label", "scores", "edges"),
    [
        ([0, 2], [[0.0, 0.0]], [0.0]),
        ([0, 1], [[0.0]], [0.0]),
        ([0, 1], [0.0, 0.0], [0.0]),
        ([0, 1], [[0.0, 0.0]], [1.0, 0.0]),
    ],
)
def test_what_does_not_fit_is_refused(label, scores, edges):
    def histograms():
        examples = ScoredExamples(np.array([0, 1]), np.array(label), np.array(scores))
        return noisy_score_histograms(examples, np.array(edges), Contribution(1, 1), 1.0, Silent())

    with pytest.raises(ValueError, match=r"expected|ascend"):
        histograms()


def test_a_contribution_of_nothing_and_noise_beyond_the_grid_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        Contribution(0, 4)
    with pytest.raises(ValueError, match="no grid unit"):
        integers(np.array([0]), np.array([1]), np.array([[0.0]]), Contribution(1, 4), 1e6)
