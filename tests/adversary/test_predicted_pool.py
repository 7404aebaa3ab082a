"""Scores that a run serves must not say which items have few rows: that is an exact count of private rows."""

import numpy as np
import pytest

from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.results.scoring import MarketScorer
from fedmm_secure.storage.run_directory import read_config
from tests.released import release_configuration

FEW = 15  # in so small a market every item has the default's five


@pytest.fixture(scope="module")
def market():
    return prepare_markets(release_configuration().data.model_copy(update={"min_item_train": FEW}))["m0"]


def few_rows(prepared):
    """Items of fewer training rows than the candidates of the evaluation need: what nobody may learn for certain."""
    counts = np.bincount(prepared.market.item[prepared.split.train], minlength=prepared.market.n_items)
    return counts < FEW


def asked_of_all_items(prepared, score):
    items = prepared.market.item_ids.tolist()
    return np.isnan(score([prepared.market.user_ids[0]] * len(items), items))


def in_the_pool_alone(prepared):
    """As it was: NaN for items outside the candidate pool, whichever model there is."""

    def score(users, items):
        index = prepared.catalogue.index(np.array(items, dtype=object))
        return np.where(prepared.pool.contains(index), 0.5, np.nan)

    return score


def test_a_released_model_answers_for_every_item_of_the_catalogue(released_run, market):
    wanted = few_rows(market)
    assert 0 < wanted.sum() < len(wanted)
    # the attack works: an account of one's own reads off which items have few rows, to a single user
    assert np.array_equal(asked_of_all_items(market, in_the_pool_alone(market)), wanted)
    scorer = MarketScorer(released_run, read_config(released_run), market)
    assert not asked_of_all_items(market, scorer).any()
