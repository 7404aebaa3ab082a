"""A head grown from sums, its features, and what it is worth to a market that joins."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from experiments.benchmarks.joining import JoiningPoint, measure_joining, worth
from fedmm_secure.config import HeadConfig
from fedmm_secure.config.synthetic import SyntheticSpec
from fedmm_secure.ctr.metrics import Interval
from fedmm_secure.guarantee.head_columns import BINS, NAMES, SCALE
from fedmm_secure.heads.examples import head_examples, market_examples, some_users
from fedmm_secure.heads.generated import generated_head
from fedmm_secure.heads.own import own_head
from fedmm_secure.heads.trees import Head, HeadGrower, fit_head
from tests.conftest import tiny

CHOICES = HeadConfig(trees=3, depth=2, learning_rate=0.5, least_weight=1.0)


def invented(n=600, seed=0):
    """Bins, and labels that follow an exclusive or of two of them."""
    rng = np.random.default_rng(seed)
    bins = rng.integers(0, 8, (n, 3)).astype(np.uint8)
    chance = np.where((bins[:, 0] > 3) ^ (bins[:, 2] > 5), 0.8, 0.2)
    return bins, (rng.random(n) < chance).astype(float)


def grower(choices=CHOICES):
    return HeadGrower(choices, -0.5, 3, 8)


def test_the_head_is_the_same_however_examples_are_spread_over_markets():
    bins, label = invented()
    cuts = [(slice(0, 1),), (slice(1, 200), slice(200, 600))]
    whole = fit_head(grower(), [(bins, label)]).to_arrays()
    parts = [(bins[part], label[part]) for group in cuts for part in group]
    spread = fit_head(grower(), parts).to_arrays()
    for name in whole:
        np.testing.assert_array_equal(whole[name], spread[name])


def test_the_first_split_is_the_best_of_all_by_brute_force():
    bins, label = invented()
    found = grower()
    found.grow(found.histograms(bins, label))
    chance = 1 / (1 + np.exp(0.5))
    gradient, weight = (
        np.rint((chance - label) * SCALE) / SCALE,
        np.rint(np.full(600, chance - chance**2) * SCALE) / SCALE,
    )

    def gain(left):
        sides = [(gradient[side].sum(), weight[side].sum()) for side in (left, ~left)]
        return sum(g**2 / (h + CHOICES.l2) for g, h in sides)

    best = max(((f, cut) for f in range(3) for cut in range(7)), key=lambda at: gain(bins[:, at[0]] <= at[1]))
    assert (found._head.feature[0, 0], found._head.last_left[0, 0]) == best


def test_a_leaf_says_what_newtons_step_says():
    bins, label = invented()
    head = fit_head(grower(replace_choices(trees=1)), [(bins, label)])
    leaf, chance = head.leaves(0, bins), 1 / (1 + np.exp(0.5))
    for at in np.unique(leaf):
        inside = leaf == at
        step = (label[inside] - chance).sum() / (inside.sum() * chance * (1 - chance) + CHOICES.l2)
        assert head.value[0, at] == pytest.approx(0.5 * step, abs=2e-3)  # gradients are rounded to 1/4096


def replace_choices(**values):
    return CHOICES.model_copy(update=values)


def test_it_learns_an_interaction_and_survives_a_round_trip():
    head = fit_head(grower(replace_choices(trees=12)), [invented()])
    bins, label = invented(seed=1)
    right = (head.predict(bins) > 0.5) == (label > 0.5)
    assert right.mean() > 0.7  # .8 is the best there is
    again = Head.from_arrays(head.to_arrays())
    np.testing.assert_array_equal(again.log_odds(bins), head.log_odds(bins))
    assert head.depth == 2


def test_growing_goes_on_in_the_middle_of_a_tree():
    bins, label = invented()
    whole, first = fit_head(grower(), [(bins, label)]), grower()
    for _ in range(3):  # of six levels
        first.grow(first.histograms(bins, label))
    second = grower()
    second.restore({name: values.copy() for name, values in first.to_arrays().items()})
    again = fit_rest(second, bins, label)
    np.testing.assert_array_equal(again.value, whole.value)
    np.testing.assert_array_equal(again.last_left, whole.last_left)


def fit_rest(found, bins, label):
    while not found.done:
        found.grow(found.histograms(bins, label))
    return found.head


def test_a_node_without_examples_or_without_a_gain_stays_whole():
    bins = np.zeros((10, 3), np.uint8)
    head = fit_head(grower(replace_choices(trees=1)), [(bins, np.ones(10))])
    assert (head.last_left == 7).all()
    assert np.count_nonzero(head.value) == 1
    assert np.isfinite(head.value).all()


# -- features ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tiny_markets):
    return tiny_markets["m0"]


def test_no_id_is_in_the_features(prepared):
    """Items in another order have the same bins, up to ties that factorisations break."""
    config = tiny()
    market = prepared.market
    order = np.random.default_rng(0).permutation(market.n_items)
    place = np.argsort(order)
    pool = replace(prepared.pool, items=np.sort(place[prepared.pool.items]))
    moved = replace(
        prepared,
        market=replace(market, item=place[market.item], item_ids=market.item_ids[order]),
        pool=pool,
        **{
            name: replace(getattr(prepared, name), item=place[getattr(prepared, name).item])
            for name in ("valid", "test")
        },
    )
    here, there = (market_examples(found, config).test.bins for found in (prepared, moved))
    exact = [NAMES.index(name) for name in ("user_rows", "item_rows", "user_last_time_itself", "known_users")]
    np.testing.assert_array_equal(here[:, exact], there[:, exact])
    assert (np.abs(here.astype(int) - there.astype(int)) <= 2).mean() > 0.97  # other pairs are drawn to compare with
    assert here.max() < BINS
    assert here.shape[1] == len(NAMES)


def test_rows_of_users_that_the_market_does_not_know_change_nothing_but_their_own_features(prepared):
    config, market = tiny(), prepared.market
    known = some_users(market.n_users, 0.3, "x")
    item = market.item.copy()
    strangers = ~known[market.user]
    item[strangers] = np.random.default_rng(1).permutation(item[strangers])
    other = replace(prepared, market=replace(market, item=item))
    here, there = (market_examples(found, config, known) for found in (prepared, other))
    mine = known[prepared.test.user]
    np.testing.assert_allclose(here.test.own.numbers[mine], there.test.own.numbers[mine], atol=1e-4)
    for left, right in [
        (here.test.bins[mine], there.test.bins[mine]),
        *zip(here.for_head, there.for_head, strict=True),
    ]:
        assert (left != right).mean() < 1e-3  # the last bits of a factorisation may move a value over the edge of a bin
    assert known[here.refit.candidates.user].all()
    assert (here.test.bins[~mine] != there.test.bins[~mine]).any()


def test_smaller_shares_are_parts_of_larger_ones():
    few, more = (some_users(50, share, "m", 3) for share in (0.001, 0.4))
    assert (few.sum(), more.sum()) == (1, 20)
    assert (few <= more).all()


def test_a_market_adds_examples_for_each_share_and_one_without_positives_trains_nothing(prepared):
    config = tiny(head={"shares": [0.2, 1.0]})
    bins, label = head_examples(prepared, config)
    once = market_examples(prepared, config).for_head
    assert len(bins) == len(label) == 2 * len(once[0])
    np.testing.assert_array_equal(bins[len(once[0]) :], once[0])
    some = head_examples(prepared, tiny(head={"shares": [0.2, 0.5]}))
    assert len(some[0]) == len(once[0])  # each user is dealt to one of the smaller shares
    nobody = market_examples(prepared, config, some_users(prepared.market.n_users, 0.0, "m"))
    assert own_head(nobody, None) is None or len(nobody.refit) >= 5


# -- learning curves ---------------------------------------------------------------------------------------------------


@pytest.fixture
def few_generated(monkeypatch):
    """Generated markets that are as small as the others of these tests."""
    found = partial(generated_head, markets=SyntheticSpec(users=60, items=30, seed=5))
    monkeypatch.setattr("experiments.benchmarks.joining.generated_head", found)
    return found


def test_a_head_of_generated_markets_ranks_items_that_it_never_met(few_generated, prepared):
    head, liked = (few_generated(tiny(data=asked).data) for asked in ({}, {"label": "like", "like_threshold": 9.0}))
    examples = market_examples(prepared, tiny())
    for found in (head, liked):
        assert np.count_nonzero(found.value) > 20
    assert roc_auc_score(examples.test.label, head.log_odds(examples.test.bins)) > 0.57
    assert (head.value != liked.value).any()  # labels are the asker's


def test_without_a_head_of_the_others_a_market_starts_from_the_generated_one(few_generated):
    points = measure_joining(tiny(workers=1), [0.2], draws=1)
    for point in points:
        assert point.federation is None
        assert point.head is point.generated
        assert point.gain.mean == pytest.approx(point.generated.mean - point.alone.mean, abs=1e-9)
    assert len(worth(points)) == 3


@pytest.mark.long
def test_the_curve_of_markets_that_share_their_taste(few_generated):
    config = tiny(head={"trees": 4, "depth": 2, "shares": [0.3, 1.0]}, workers=1)
    points = measure_joining(config, [0.2, 1.0], draws=2)
    assert [(point.market, point.share, point.users, point.draws) for point in points] == [
        (f"m{number}", share, users, draws)
        for number in range(3)
        for share, users, draws in ((0.2, 16, 2), (1.0, 80, 1))
    ]
    for point in points:
        assert 0.5 < point.alone.mean <= 1
        assert point.alone.mean >= point.popularity.mean  # it takes the better of the two
        assert point.gain.mean == pytest.approx(point.federation.mean - point.alone.mean, abs=1e-9)
        assert point.gain.low <= point.gain.mean <= point.gain.high
    assert {one.market for one in worth(points)} == {"m0", "m1", "m2"}


def point(users, alone, federation):
    flat = [Interval(value, None, None) for value in (0.5, alone, 0.4, federation, federation)]
    return JoiningPoint("m", users / 1000, users, 1, *flat, gain=Interval(federation - alone, None, None))


def test_the_worth_in_users_is_where_the_curves_cross():
    (found,) = worth([point(10, 0.6, 0.7), point(100, 0.7, 0.75), point(1000, 0.9, 0.85)])
    assert found.at_least == pytest.approx(100)
    assert found.crossing == pytest.approx(10**2.5)  # halfway, on the logarithmic scale
    assert found.users == 1000
    (never,) = worth([point(10, 0.6, 0.7), point(100, 0.65, 0.75)])
    assert (never.crossing, never.at_least) == (None, None)
    (always,) = worth([point(10, 0.8, 0.7), point(100, 0.9, 0.75)])
    assert (always.crossing, always.at_least) == (0.0, 0.0)
