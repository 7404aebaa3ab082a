"""The three risks on releases that give everything away, that give nothing away, and on real pipelines."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

from attacks.disclosure.differencing import difference
from attacks.disclosure.inference import infer_items
from attacks.disclosure.linkability import find, link
from attacks.disclosure.releases import (
    CODES,
    EMBEDDINGS,
    RANDOMISED,
    SCORES,
    Release,
    published,
    released_again,
    split_histories,
    two_releases,
)
from attacks.disclosure.singling_out import class_sizes, single_out
from attacks.retraining.pipelines import Retraining
from tests.conftest import tiny

USERS, ITEMS = 200, 60


class Published:
    """An embedding whose records are what ``make`` makes of histories."""

    item_factors_ = np.eye(ITEMS)

    def __init__(self, make):
        self.transform = lambda histories: make(histories.toarray())


def release_of(make):
    """A release of half of the users, who have about eighteen items each."""
    rng = np.random.default_rng(0)
    histories = sparse.csr_array((rng.random((USERS, ITEMS)) < 0.3).astype(float))
    users = rng.permutation(USERS)
    trained = SimpleNamespace(coded=SimpleNamespace(quantizer=None, embedding=Published(make)), accounts=None)
    return Release(trained, histories, np.arange(ITEMS), users[: USERS // 2], users[USERS // 2 :])


def remembering(release):
    """Whoever asks about a part of the history of a user of the release gets the whole of it; otherwise noise."""
    rng, inside = np.random.default_rng(1), release.histories.toarray()[release.inside]

    def make(histories):
        found = rng.normal(size=histories.shape)
        for place, own in enumerate(histories):
            fits = np.flatnonzero((inside >= own).all(1))
            if len(fits) == 1:
                found[place] = inside[fits[0]]
        return found

    release.trained.coded.embedding = Published(make)
    return release


@pytest.fixture
def leaking():
    return remembering(release_of(None))


@pytest.fixture
def saying_nothing():
    """Records that are drawn anew whenever somebody asks, whoever it is."""
    rng = np.random.default_rng(1)
    return release_of(lambda histories: rng.normal(size=histories.shape))


def risks(release):
    rng = np.random.default_rng(1)
    found = {"singling out": single_out([release]), "inference": infer_items([release], rng)}
    found |= {one.attack: [one] for one in link([release], release, rng)}
    return {name: one for name, (one,) in found.items()}


def test_a_release_that_remembers_its_users_is_found(leaking):
    found = risks(leaking)
    assert found["singling out"].risk.value > 0.95
    assert found["two halves of a history"].risk.value > 0.95
    assert found["two releases"].risk.low > 0.95
    assert found["inference"].risk.value > 0.95
    for risk in found.values():
        assert risk.over_prior.low > 0.85


def test_a_release_that_says_nothing_is_found_to(saying_nothing):
    """One interval in twenty leaves 0 out; these do not, with this seed."""
    found = risks(saying_nothing)
    for name in ("two halves of a history", "two releases", "inference"):
        assert found[name].risk.low <= 0.0 <= found[name].risk.high, name
    assert found["two releases"].success.value < 0.05


def test_one_record_for_all_singles_nobody_out():
    found = risks(release_of(lambda histories: np.ones(histories.shape)))["singling out"]
    assert found.success.value == 0.0
    assert found.risk.low <= 0.0 <= found.risk.high


def test_records_that_are_equally_like_are_chosen_between():
    rng = np.random.default_rng(0)
    alike = np.repeat(rng.normal(size=(2, 4)), 50, axis=0)
    assert find(alike, alike, rng).mean() == pytest.approx(1 / 50, abs=0.06)
    apart = rng.normal(size=(100, 4))
    assert find(apart, apart, rng).all()


def test_classes_are_counted():
    codes = np.array([[0, 1], [0, 1], [1, 0], [0, 1]])
    assert class_sizes(codes).tolist() == [3, 3, 1, 3]


def test_halves_of_a_history_are_disjoint_and_make_it():
    histories = release_of(None).histories
    left, right = split_histories(histories, np.random.default_rng(0))
    np.testing.assert_array_equal((left + right).toarray(), histories.toarray())
    sizes = (np.diff(part.indptr) for part in (left, right))
    assert set((next(sizes) - next(sizes)).tolist()) <= {0, 1}


def test_releases_of_a_market_leave_the_others_out(tiny_markets):
    """On pipelines as they are: who is left out has no row, and everything that is published is attacked."""
    config = tiny(ctr={"max_epochs": 1}, federation={"rounds": 2})
    retraining = Retraining(config, tiny_markets, "m0", ("fedmm", "local-ids"), {}, {name: {} for name in tiny_markets})
    releases = two_releases(retraining, 0, np.random.default_rng(0))
    first, second = releases["fedmm"]
    assert set(first.inside) == set(second.outside)
    assert not set(first.inside) & set(first.outside)
    market = first.trained.prepared.market
    assert not np.isin(market.user[first.trained.prepared.split.train], first.outside).any()
    assert published(first) == [CODES, RANDOMISED, EMBEDDINGS, SCORES]
    assert published(releases["local-ids"][0]) == [EMBEDDINGS]  # ids score no account, and no code is read
    single = single_out(releases["fedmm"])
    inferred = infer_items(releases["fedmm"], np.random.default_rng(0))
    assert [risk.source for risk in single] == [risk.source for risk in inferred] == published(first)
    again = released_again(replace(retraining, targets=("fedmm",)), first, 1)["fedmm"]
    linked = link(releases["fedmm"], again, np.random.default_rng(0))
    assert len(linked) == 8
    assert all(0 <= risk.success.value <= 1 for risk in (*single, *inferred, *linked))
    assert next(risk for risk in single if risk.source == EMBEDDINGS).success.value > 0.5


def test_who_leaves_between_two_releases_is_found_unless_there_is_noise(tiny_markets):
    """The control is somebody who stays: of whom nothing is found either way."""
    none = {name: {} for name in tiny_markets}
    plain = difference(Retraining(tiny(), tiny_markets, "m0", (), {}, none), np.random.default_rng(0))
    assert plain.risk.low > 0.2
    assert plain.control.value < plain.success.value
    config = tiny(embedding={"private": {"dim": 4}}, privacy={"epsilon": 4.0, "protect": "release"})
    noise = {name: {"counts": 2.0, "embedding": 2.0} for name in tiny_markets}
    noised = difference(Retraining(config, tiny_markets, "m0", (), {}, noise), np.random.default_rng(0))
    # noise is drawn anew: about a quarter of 60 users, with a standard deviation of .06
    assert noised.success.value < plain.success.low
    assert noised.risk.value < plain.risk.low
