"""Constants of models are drawn again by whoever verifies: a configuration that asks for hours of it gets none."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.verification import examine_run, standardisations
from fedmm_secure.data import candidates
from fedmm_secure.data.candidates import Pool, Simulated, pair_keys, with_negatives
from tests.forgery import Forgery
from tests.released import release_configuration

USERS = 20


def most_met_alone(n_items):
    """Users who all met the one item that counts say anybody met, and negatives drawn by these counts."""
    user, item, weights = np.arange(USERS), np.zeros(USERS, np.int64), np.zeros(n_items)
    weights[0] = 1.0
    touched = pair_keys(user, item, n_items)
    return user, item, Pool(np.arange(n_items), weights, 1.0), touched, n_items


def as_it_was(items, touched, place):
    """All that is left of the catalogue, made anew for each negative."""
    return int(items[~np.isin(items, touched)][place])


def drawn(n_items):
    """Negatives, and the seconds that they took."""
    start = time.perf_counter()
    found = with_negatives(*most_met_alone(n_items), 4, Simulated(np.random.default_rng(0)))
    return found.item, time.perf_counter() - start


def test_negatives_of_concentrated_counts_take_no_catalogue_each(monkeypatch):
    """It was a millisecond for each 100,000 items: hours for two hundred users with a thousand negatives each."""
    found, seconds = min((drawn(500_000) for _ in range(3)), key=lambda one: one[1])
    monkeypatch.setattr(candidates, "_untouched", as_it_was)
    wanted, before = drawn(500_000)
    assert np.array_equal(found, wanted)
    assert before > 3 * seconds


def test_the_same_item_is_chosen():
    rng = np.random.default_rng(1)
    for _ in range(200):
        items = np.flatnonzero(rng.random(30) < 0.7)
        touched = np.flatnonzero(rng.random(30) < 0.4)
        free = np.setdiff1d(items, touched)
        assert [candidates._untouched(items, touched, place) for place in range(len(free))] == free.tolist()


def too_many(config, *, models=1, items=20, dim=4, catalogue=100):
    embedding = SimpleNamespace(items_=np.arange(items), item_factors_=np.broadcast_to(0.0, (catalogue, dim)))
    return standardisations._too_many(config, embedding, models=models)


def asking(pseudo_users, negatives):
    config = release_configuration(pseudo_users=pseudo_users)
    return config.model_copy(update={"data": config.data.model_copy(update={"negatives_per_positive": negatives})})


@pytest.mark.parametrize(
    ("pseudo_users", "negatives", "sizes"),
    [
        (0, 1000, {"models": 100}),  # it was no pair at all
        (49_999, 4, {"models": 100}),  # below the limit, a hundred times
        (49_999, 4, {"dim": 256}),  # arrays of half a gigabyte, several at a time
        (2000, 4, {"items": 10_000}),  # who follows whom
        (2000, 4, {"catalogue": 2**24}),
    ],
)
def test_what_would_take_hours_or_gigabytes_is_not_drawn(pseudo_users, negatives, sizes):
    assert too_many(asking(pseudo_users, negatives), **sizes)


def test_what_runs_are_made_with_is():
    assert not too_many(asking(2000, 4), models=140, items=300, dim=8, catalogue=200_000)
    assert not too_many(asking(2000, 4), models=20, items=4000, dim=16, catalogue=200_000)
    assert not too_many(asking(2000, 16), models=20, items=300, dim=8)


def test_an_outsiders_edit_of_the_configuration_costs_its_reader_nothing(released_copy, monkeypatch):
    run = Forgery(released_copy)
    run.configure("privacy", pseudo_users=0)
    run.configure("data", negatives_per_positive=1000)
    run.finish(owner=False)
    pairs = []
    monkeypatch.setattr(standardisations, "MOST_WORK", 2**26)  # seconds here, for three models
    monkeypatch.setattr(standardisations, "pseudo_examples", lambda *asked: pairs.append(asked) or pytest.fail("drawn"))
    examined = examine_run(released_copy)
    assert examined.findings
    assert pairs == []
    assert sum("too many pseudo-users" in text for text in examined.unchecked) == 3
    monkeypatch.setattr(standardisations, "_too_many", lambda *_, **__: False)  # as it was: asked for 200,000 pairs
    with pytest.raises(pytest.fail.Exception, match="drawn"):
        examine_run(released_copy)
    assert len(pairs) == 1
