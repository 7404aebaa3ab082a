import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmm_secure.data.candidates import Simulated, candidate_pool, click_candidates, pair_keys, with_negatives
from fedmm_secure.data.market import build_market
from fedmm_secure.data.splits import global_date, leave_last_out
from fedmm_secure.errors import DataError


def market_of(pairs, times=None):
    users, items = [f"u{u:03d}" for u, _ in pairs], [f"i{i:03d}" for _, i in pairs]
    return build_market("m", users, items, None, None if times is None else np.asarray(times, dtype=np.int64))


@st.composite
def markets(draw):
    n_users, n_items = draw(st.integers(10, 25)), draw(st.integers(12, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pairs = [(user, item) for user in range(n_users) for item in range(n_items) if rng.random() < 0.4]
    pairs += [(user, user % n_items) for user in range(n_users)] + [(0, item) for item in range(n_items)]
    return market_of(pairs, rng.integers(0, 50, len(pairs)))


@settings(max_examples=50, deadline=None)
@given(markets())
def test_leave_last_out_partitions_and_respects_time(market):
    split = leave_last_out(market)
    together = np.sort(np.concatenate([split.train, split.valid, split.test]))
    np.testing.assert_array_equal(together, np.arange(market.n_rows))
    for user in range(market.n_users):
        train, valid, test = (rows[market.user[rows] == user] for rows in (split.train, split.valid, split.test))
        total = len(train) + len(valid) + len(test)
        assert (len(valid), len(test)) == ((1, 1) if total >= 3 else (0, 0))
        if total >= 3:
            assert market.time[train].max() <= market.time[valid[0]] <= market.time[test[0]]


@settings(max_examples=50, deadline=None)
@given(markets())
def test_global_date_puts_later_rows_later(market):
    split = global_date(market)
    assert sorted([*split.train, *split.valid, *split.test]) == list(range(market.n_rows))
    if len(split.valid):
        assert market.time[split.train].max() < market.time[split.valid].min()
    if len(split.test):
        assert market.time[split.train].max() < market.time[split.test].min()


def test_global_date_needs_times():
    market = market_of([(u, i) for u in range(10) for i in range(10)])
    with pytest.raises(DataError, match="needs a time column"):
        global_date(market)


@settings(max_examples=50, deadline=None)
@given(markets(), st.sampled_from(["uniform", "popularity"]), st.integers(1, 5))
def test_candidates_keep_the_protocol(market, negatives, per_positive):
    split = leave_last_out(market)
    pool = candidate_pool(market, split, min_item_train=3, negatives=negatives)
    counts = np.bincount(market.item[split.train], minlength=market.n_items)
    np.testing.assert_array_equal(pool.items, np.flatnonzero(counts >= 3))
    rng = np.random.default_rng(0)
    found = click_candidates(market, split.test, pool, per_positive=per_positive, rng=rng)
    touched = set(zip(market.user, market.item, strict=True))
    positives = {(market.user[row], market.item[row]) for row in split.test}
    assert pool.contains(found.item).all()
    n_positive = int(found.label.sum())
    assert len(found) == n_positive * (1 + per_positive)
    for user, item, label in zip(found.user, found.item, found.label, strict=True):
        assert ((user, item) in positives) if label else ((user, item) not in touched)


def test_negatives_of_a_positive_are_distinct_where_they_can_be(tiny_markets):
    prepared = tiny_markets["m0"]
    n = int(prepared.test.label.sum())
    per_row = prepared.test.item[n:].reshape(n, -1)
    assert all(len(set(row)) == len(row) for row in per_row.tolist())


def test_popularity_negatives_follow_training_counts():
    rng = np.random.default_rng(1)
    pairs = [(user, item) for user in range(300) for item in range(20) if rng.random() < 0.05 + 0.02 * item]
    market = market_of(pairs)
    split = leave_last_out(market)
    pool = candidate_pool(market, split, min_item_train=1, negatives="popularity")
    none = np.zeros(0, dtype=np.int64)
    n = 4000
    drawn = with_negatives(np.zeros(n, np.int64), np.zeros(n, np.int64), pool, none, market.n_items, 1, Simulated(rng))
    share = np.bincount(drawn.item[n:], minlength=market.n_items)[pool.items] / n
    # 5 standard errors of a proportion
    np.testing.assert_array_less(np.abs(share - pool.weights), 5 * np.sqrt(pool.weights / n))


def test_a_user_who_touched_everything_has_no_candidates():
    pairs = [(0, item) for item in range(12)] + [(user, item) for user in range(1, 12) for item in range(6)]
    market = market_of(pairs)
    split = leave_last_out(market)
    pool = candidate_pool(market, split, min_item_train=1, negatives="uniform")
    found = click_candidates(market, split.test, pool, per_positive=4, rng=np.random.default_rng(0))
    assert 0 not in found.user
    assert len(found) > 0


def test_the_last_free_item_is_found_whatever_the_weights():
    """Popularity weights concentrated on touched items must not loop or give up."""
    pairs = [(user, item) for user in range(200) for item in range(11)] + [(250, 11)] * 1 + [(250, 0)]
    market = market_of(pairs)
    split = leave_last_out(market)
    pool = candidate_pool(market, split, min_item_train=1, negatives="popularity")
    touched = pair_keys(market.user, market.item, market.n_items)
    rng = np.random.default_rng(0)
    drawn = with_negatives(
        np.zeros(5, np.int64), np.zeros(5, np.int64), pool, touched, market.n_items, 3, Simulated(rng)
    )
    assert set(drawn.item[5:]) == {11}


def test_candidates_hash_the_same_only_if_they_are_the_same(tiny_markets):
    test = tiny_markets["m0"].test
    assert test.sha256() == type(test)(test.user.copy(), test.item.copy(), test.label.copy()).sha256()
    assert test.sha256() != tiny_markets["m0"].valid.sha256()
