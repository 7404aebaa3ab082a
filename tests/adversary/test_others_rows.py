"""What a released run serves a user follows from what was published and from that user's own rows, to the last bit."""

import numpy as np
import pytest

from fedmm_secure.data.market import with_rows
from fedmm_secure.data.prepare import prepare, prepare_markets
from fedmm_secure.recommending.recommend import Recommender
from fedmm_secure.results.scoring import MarketScorer
from fedmm_secure.storage.run_directory import read_config
from tests.released import release_configuration

ASKED = 0


@pytest.fixture(scope="module")
def two():
    """A market, and the same where all users but one have half of their rows."""
    data = release_configuration().data
    market = prepare_markets(data)["m0"]
    own = market.whole.market
    kept = (own.user == ASKED) | (np.arange(own.n_rows) % 2 == 0)
    return market, prepare(with_rows(own, np.flatnonzero(kept)), data)


def by_popularity(prepared):
    """A service that ranks by exact counts: it says what others have done."""
    counts = np.bincount(prepared.market.item[prepared.split.train], minlength=prepared.market.n_items)
    return lambda users, items: counts[prepared.catalogue.index(np.array(items, dtype=object))]


def asked(prepared, score):
    items = prepared.market.item_ids.tolist()
    return score([prepared.market.user_ids[ASKED]] * len(items), items)


def test_predictions_say_nothing_of_others_but_what_was_published(released_run, two):
    assert not np.array_equal(*(asked(prepared, by_popularity(prepared)) for prepared in two))
    config = read_config(released_run)
    first, second = (asked(prepared, MarketScorer(released_run, config, prepared)) for prepared in two)
    assert np.isfinite(first).all()
    assert first.tobytes() == second.tobytes()


def test_recommendations_neither(released_run, two):
    config = read_config(released_run)
    tables = [
        Recommender(released_run, config, "m0", prepared)([prepared.market.user_ids[ASKED]], 20) for prepared in two
    ]
    assert len(tables[0]) == 20
    assert tables[0].equals(tables[1])
