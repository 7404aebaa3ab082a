"""Private discovery of items: sensitivity, the threshold, and the whole output law on small cases by enumeration."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.partition_selection import PartitionSelection, threshold
from privacy.mechanisms.randomness import NoiseSource

N_ITEMS = 5
rows = st.lists(st.tuples(st.integers(0, 3), st.integers(0, N_ITEMS - 1)), max_size=14)


def arrays(pairs):
    user, item = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return user, item


def sums(selection, pairs):
    return selection.sums(*arrays(pairs), N_ITEMS)


@settings(max_examples=150, deadline=None)
@given(rows, st.lists(st.integers(0, N_ITEMS - 1), max_size=12), st.integers(1, 4), st.sampled_from([0.3, 1.0, 7.0]))
def test_one_user_moves_the_sums_by_at_most_the_sensitivity(others, own, most, multiplier):
    """Whatever the rows, in integers: no rounding is left to argue about."""
    selection = PartitionSelection(most, multiplier, 1e-3)
    moved = sums(selection, [*others, *((4, item) for item in own)]) - sums(selection, others)
    assert (moved >= 0).all()
    assert int((moved.astype(object) ** 2).sum()) <= selection.grid.squared_bound
    assert np.count_nonzero(moved) <= most
    # the user's latest distinct items, and no others
    latest = list(dict.fromkeys(reversed(own)))[:most]
    assert set(np.flatnonzero(moved)) == set(latest)


def test_weights_are_even_and_nearly_exhaust_the_sensitivity():
    selection = PartitionSelection(3, 2.0, 1e-3)
    found = sums(selection, [(0, 0), (0, 1), (0, 2), (0, 3), (1, 4)])
    unit = scale(selection.grid.levels) / 2.0
    np.testing.assert_allclose(found / unit, [0, 3**-0.5, 3**-0.5, 3**-0.5, 1], rtol=1e-4)


@pytest.mark.parametrize("multiplier", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-4, 0.2])
@pytest.mark.parametrize("most", [1, 2, 8])
def test_items_of_one_user_alone_pass_with_probability_delta_at_most(multiplier, delta, most):
    """By the exact law on the integers, for every number of items that the user may have."""
    selection = PartitionSelection(most, multiplier, delta)
    worst = 0.0
    for count in range(1, most + 1):
        weight = int(sums_of_one(selection, count))
        one = upper_tail(selection.grid_threshold - weight + 1)
        worst = max(worst, -math.expm1(count * math.log1p(-one)))
    assert worst <= delta
    assert worst > 0.98 * delta  # and the threshold is not needlessly high


def sums_of_one(selection, count):
    return selection.sums(np.zeros(count, dtype=np.int64), np.arange(count), count)[0]


@cache
def tail_of_the_law():
    """``Pr[Z >= z]`` of the sampler's law for z from ``-top`` on, by adding up its probabilities; and ``top``."""
    s = scale(2)
    top = int(14 * s)
    z = np.arange(-top, top + 1, dtype=np.float64)
    density = np.exp(-(z**2) / (2 * s * s))
    return np.cumsum(density[::-1])[::-1] / density.sum(), top


def upper_tail(start):
    tail, top = tail_of_the_law()
    return float(tail[start + top]) if start <= top else 0.0


def test_the_tail_of_the_integer_law_is_below_that_of_the_normal_law_one_step_on():
    """Canonne, Kamath, Steinke, Proposition 25, at a scale where one step shows."""
    for s in (0.7, 1.0, 3.0):
        z = np.arange(-60, 61)
        density = np.exp(-(z**2) / (2 * s * s))
        density /= density.sum()
        for start in range(1, 12):
            assert density[z >= start].sum() <= stats.norm.sf((start - 1) / s)


def test_the_threshold_is_that_of_the_closed_form():
    for most, multiplier, delta in ((1, 1.0, 1e-5), (10, 0.8, 1e-6), (3, 4.0, 0.01)):
        expected = max(
            1 / math.sqrt(j) + multiplier * stats.norm.isf(1 - (1 - delta) ** (1 / j)) for j in range(1, most + 1)
        )
        assert threshold(most, multiplier, delta) == pytest.approx(expected, rel=1e-9)
    # one item a user: Korolova et al.'s setting, with normal noise
    assert threshold(1, 2.0, 1e-4) == pytest.approx(1 + 2 * stats.norm.isf(1e-4))
    assert threshold(20, 1.0, 1e-4) >= threshold(5, 1.0, 1e-4)
    # tiny δ: 1 - δ rounds to 1 in double precision
    assert math.isfinite(threshold(5, 1.0, 1e-30))


@pytest.mark.parametrize("arguments", [(0, 1.0, 1e-3), (1, 0.0, 1e-3), (1, 1.0, 0.0), (1, 1.0, 0.5)])
def test_what_has_no_threshold_is_refused(arguments):
    with pytest.raises(ValueError, match="no threshold"):
        threshold(*arguments)


def output_law(selection, pairs):
    """Probability of every set of items that may be published, exactly: noise is independent from item to item."""
    total = sums(selection, pairs)
    passes = [
        special.ndtr((value - selection.grid_threshold - 0.5) / scale(selection.grid.levels)) if value else 0.0
        for value in total
    ]  # the sampler's law is so fine that the normal law at half steps has its probabilities to 1e-12
    return {
        published: math.prod(p if item in published else 1 - p for item, p in enumerate(passes))
        for size in range(N_ITEMS + 1)
        for published in itertools.combinations(range(N_ITEMS), size)
    }


def hockey_stick(first, second, epsilon):
    return sum(max(0.0, first[output] - math.exp(epsilon) * second[output]) for output in first)


def gaussian_delta(multiplier, epsilon):
    """δ of the Gaussian mechanism at sensitivity 1 (Balle, Wang, ICML 2018, theorem 8)."""
    one, other = 1 / (2 * multiplier), epsilon * multiplier
    return float(special.ndtr(one - other) - math.exp(epsilon) * special.ndtr(-one - other))


USERS = [
    [],
    [(9, 4)],  # an item of their own
    [(9, 0)],  # an item of others
    [(9, 3), (9, 4)],
    [(9, 0), (9, 4)],
    [(9, 0), (9, 1), (9, 2), (9, 3), (9, 4)],
]
OTHERS = [
    [],
    [(0, 0)],
    [(0, 0), (1, 0), (2, 0)],
    [(0, 0), (0, 1), (1, 0), (1, 2), (2, 0), (3, 0)],
]


@pytest.mark.parametrize("others", OTHERS)
@pytest.mark.parametrize("own", USERS[1:])
@pytest.mark.parametrize(
    ("multiplier", "delta", "most"), [(0.4, 0.02, 1), (1.0, 0.1, 3), (0.6, 0.3, 5), (2.0, 1e-3, 2)]
)
def test_with_and_without_one_user_the_published_sets_are_as_close_as_claimed(others, own, multiplier, delta, most):
    """The whole output law, in both directions, at every ε: a Gaussian mechanism and δ."""
    selection = PartitionSelection(most, multiplier, delta)
    without, with_user = output_law(selection, others), output_law(selection, [*others, *own])
    assert sum(with_user.values()) == pytest.approx(1, abs=1e-12)
    for epsilon in (0.0, 0.1, 0.5, 1.0, 2.0, 4.0):
        allowed = gaussian_delta(multiplier, epsilon) + delta
        assert hockey_stick(with_user, without, epsilon) <= allowed
        assert hockey_stick(without, with_user, epsilon) <= allowed


def test_without_the_delta_of_the_threshold_the_claim_would_be_false():
    """A user's own item is an event that never happens without the user: what the enumeration above must see."""
    selection = PartitionSelection(1, 2.0, 0.1)
    without, with_user = output_law(selection, OTHERS[1]), output_law(selection, [*OTHERS[1], *USERS[1]])
    assert hockey_stick(with_user, without, 4.0) > 100 * gaussian_delta(2.0, 4.0)
    assert hockey_stick(with_user, without, 4.0) <= 0.1


def test_what_is_drawn_follows_the_law():
    """Chi-square over the published sets of 4,000 draws; false alarm 1e-6."""
    selection = PartitionSelection(3, 1.0, 0.1)
    pairs = [(0, 0), (0, 1), (1, 0), (1, 2), (2, 0), (3, 0), (3, 1)]
    law, user_item = output_law(selection, pairs), arrays(pairs)
    n = 4000
    source = NoiseSource.from_seed(5)
    drawn = [tuple(selection.select(*user_item, N_ITEMS, source.derive(i)).items.tolist()) for i in range(n)]
    assert {output for output, p in law.items() if p == 0}.isdisjoint(drawn)
    common = [output for output, p in law.items() if p * n >= 5]
    observed = [drawn.count(output) for output in common]
    expected = [law[output] * n for output in common]
    rest = n - sum(expected)
    if rest >= 5:
        observed, expected = [*observed, n - sum(observed)], [*expected, rest]
    else:
        expected = [value * sum(observed) / sum(expected) for value in expected]
    assert len(common) > 4
    assert stats.chisquare(observed, expected).pvalue > 1e-6


def test_items_of_many_users_are_found_and_nothing_else_is(recwarn):
    """Items of 40, 20 and 1 users: the common ones are published, the rare ones are not; false alarm below 1e-5."""
    pairs = [(user, item) for user in range(40) for item in range(3) if item < 2 or user < 20]
    pairs += [(100 + item, item) for item in range(3, 200)]
    user, item = np.array(pairs).T
    selection = PartitionSelection(4, 1.0, 1e-8)
    found = selection.select(user, item, 200, NoiseSource.from_seed(0)).items
    assert found.tolist() == [0, 1, 2]
    nothing = selection.select(np.zeros(0, np.int64), np.zeros(0, np.int64), 7, NoiseSource.from_seed(0)).items
    assert nothing.tolist() == []
    assert not recwarn.list
