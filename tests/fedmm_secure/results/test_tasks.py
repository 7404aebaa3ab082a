"""Tasks beside sampled candidates, against ranks that are counted one by one."""

import numpy as np
import pytest

from experiments.verification.schemas import metrics_problems
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.closed_run import RunFiles
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.results.scoring import load_trained
from fedmm_secure.results.tasks import auc_of_short, macro_of, rank_pool
from tests.conftest import tiny

ASKED = {"ranked_users": 1000, "short_histories": [1, 2]}


class Table:
    """Scores from a table, with ties; remembers of which rows it was asked."""

    def __init__(self, prepared):
        market = prepared.market
        self.values = np.random.default_rng(0).random((market.n_users, market.n_items)).round(1)
        self.candidates = prepared.pool.items

    def on(self, accounts):
        self.accounts = accounts
        return lambda user, item: self.values[user, item]


class Own:
    """A run's model with features of the market's users from all of their training rows."""

    def __init__(self, found):
        self._found, self._builder = found, found.builder()

    def on(self, accounts):
        return lambda user, item: self._found.model.predict(self._builder(user, item))


def by_hand(prepared, rows, score):
    """NDCG@10 and Recall@10 of test rows, each among the items of the pool that the user does not have."""
    market, split = prepared.market, prepared.split
    known = np.concatenate([split.train, split.valid])
    gains, hits = [], []
    for row in rows:
        user, wanted = market.user[row], market.item[row]
        have = set(market.item[known[market.user[known] == user]])
        others = [item for item in prepared.pool.items if item not in have and item != wanted]
        rank = 1 + sum(score(user, item) >= score(user, wanted) for item in others)
        gains.append(1 / np.log2(rank + 1) if rank <= 10 else 0.0)
        hits.append(rank <= 10)
    return np.mean(gains), np.mean(hits)


def test_ranks_are_those_that_counting_gives(tiny_markets, monkeypatch):
    monkeypatch.setattr("fedmm_secure.results.tasks.PAIRS_AT_ONCE", 90)  # in blocks of two or three users
    prepared = tiny_markets["m1"]
    scorer, market, split = Table(prepared), prepared.market, prepared.split
    found = rank_pool(scorer, prepared, 1000, np.random.default_rng(0))
    rows = [row for row in split.test if market.item[row] in set(prepared.pool.items)]
    counts = np.bincount(market.item[split.train], minlength=market.n_items)
    assert (found.users, found.items) == (len(rows), len(prepared.pool.items))
    ndcg, recall = by_hand(prepared, rows, lambda user, item: scorer.values[user, item])
    assert (found.ndcg10, found.recall10) == pytest.approx((ndcg, recall))
    ndcg, recall = by_hand(prepared, rows, lambda user, item: counts[item])
    assert (found.popularity_ndcg10, found.popularity_recall10) == pytest.approx((ndcg, recall))
    np.testing.assert_array_equal(scorer.accounts.item, market.item[split.train])  # no row of a later part


def test_as_many_users_are_ranked_as_are_asked_for(tiny_markets):
    prepared = tiny_markets["m1"]
    assert rank_pool(Table(prepared), prepared, 7, np.random.default_rng(0)).users == 7


@pytest.mark.parametrize("n", [1, 2])
def test_of_a_short_history_the_latest_rows_alone_are_known(tiny_markets, n):
    prepared, scorer = tiny_markets["m0"], Table(tiny_markets["m0"])
    market, train = prepared.market, prepared.split.train
    assert 0.3 < auc_of_short(scorer, prepared, n) < 0.7
    for user in range(market.n_users):
        own = train[market.user[train] == user]
        known = scorer.accounts.item[scorer.accounts.user == user]
        np.testing.assert_array_equal(known, market.item[own[-n:]])


@pytest.mark.parametrize(
    "sections",
    [
        {"ctr": {"model": "logistic", "baselines": []}},
        {"ctr": {"baselines": []}, "privacy": {"epsilon": 8, "protect": "release"}},
    ],
    ids=["own", "released"],
)
def test_a_run_says_what_it_was_asked(tiny_markets, tmp_path, sections):
    config = tiny(evaluation=ASKED, federation={"rounds": 1}, **sections)
    metrics = run_pipeline(config, tiny_markets, tmp_path / "run")
    assert list(metrics_problems(config, metrics)) == []
    for values in (metrics["macro"], *metrics["markets"].values()):
        assert 0 <= values["ranking"]["ndcg10"] <= values["ranking"]["recall10"] <= 1
        assert set(values["short_histories"]) == {"1", "2"}
    if config.privacy.epsilon is None:
        scorer = Own(load_trained(RunFiles(tmp_path / "run", "m0"), config, tiny_markets["m0"], 0))
        expected = rank_pool(scorer, tiny_markets["m0"], 1000, np.random.default_rng(0))
        assert metrics["markets"]["m0"]["ranking"]["ndcg10"] == pytest.approx(expected.ndcg10)


def test_means_are_over_markets_and_none_where_one_has_no_figure():
    one = {"ndcg10": 0.2, "recall10": 0.4, "popularity_ndcg10": 0.1, "popularity_recall10": 0.2}
    two = {**one, "ndcg10": 0.4}
    found = macro_of(
        [{"ranking": one, "short_histories": {"1": 0.5}}, {"ranking": two, "short_histories": {"1": None}}]
    )
    assert found["ranking"]["ndcg10"] == pytest.approx(0.3)
    assert found["short_histories"] == {"1": None}
    assert macro_of([{}]) == {}
    assert macro_of([{"ranking": one}, {"ranking": None}]) == {"ranking": None}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"ctr": {"features": ["user_id"], "model": "deepfm", "training": "in-sample"}}, "ctr.features has user_id"),
        ({"privacy": {"epsilon": 8, "protect": "release", "shares": {"evaluation": 0.1}}}, "privacy.shares.evaluation"),
    ],
)
def test_what_cannot_be_is_refused(sections, message):
    with pytest.raises(ConfigError, match=message):
        tiny(evaluation=ASKED, **sections)


def test_a_market_without_candidates_leaves_no_mean_over_markets():
    """What one of them cannot have is no figure of all: it ended in a traceback where another market came first."""
    figures = {"short_histories": {"1": 0.75}}
    assert macro_of([figures, figures]) == figures
    assert macro_of([figures, {}]) == macro_of([{}, figures]) == {"short_histories": None}
