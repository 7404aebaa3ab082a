"""A federation played again, and what colluding markets leave of its sum."""

import numpy as np
import pytest

from attacks.retraining.federations import federate, without_colluders
from attacks.retraining.pipelines import Retraining, without_users
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.collaborative.shared_dp_svd import SharedDPSVDEmbedding
from fedmm_secure.collaborative.shared_svd import SharedSVDEmbedding
from fedmm_secure.data.market import history_matrix
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.federation.parties import market_sizes
from fedmm_secure.guarantee.plan import SpendingPlan
from tests.conftest import TINY, tiny


def test_who_colludes_takes_the_own_movement_out_of_the_sum():
    """By hand, four markets of 1, 2, 3 and 10: the target is the first."""
    movements = {name: np.array([value]) for name, value in zip("abcd", (1.0, 2.0, 3.0, 10.0), strict=True)}
    found = without_colluders(movements, "a").ravel()
    assert found == pytest.approx(np.array([(1 + 3 + 10) / 3, (1 + 10) / 2, 1.0]) - 4.0)


def test_all_others_together_are_left_with_what_a_market_sent(tiny_markets):
    config = tiny(federation={"rounds": 1})
    embeddings = {name: fit_embedding(found, config.embedding) for name, found in tiny_markets.items()}
    sent = {}

    def noted(name):
        def pass_on(movement, codewords, cohort):
            sent[name] = codewords + movement
            return movement

        return pass_on

    found = federate(
        config, tiny_markets, {name: {} for name in tiny_markets}, 0, embeddings, {n: noted(n) for n in tiny_markets}
    )
    for name in tiny_markets:
        seen = found[name].federated
        assert seen.rest.shape == (2, *seen.aggregate.shape)
        np.testing.assert_allclose(seen.rest[-1], sent[name], atol=1e-4)
        assert np.abs(seen.aggregate - sent[name]).max() > 1e-3  # the sum is not the update


SHARED = {"synthetic": {**TINY["data"]["synthetic"], "shared_items": 30}, "shared_items": True}


@pytest.mark.parametrize("private", [False, True])
def test_where_markets_share_a_catalogue_their_sums_are_made_again_without_who_is_left_out(private):
    """Embedding and features know what all markets know, less the users that a pipeline lacks."""
    release = {
        "epsilon": 8.0,
        "protect": "release",
        "contribution": {"reference_date": "2022-01-01"},
        "ctr": {"steps": 5},
    }
    config = tiny(
        data=SHARED,
        embedding={"dim": 8, "shared_items": 25, **({"private": {"dim": 4}} if private else {})},
        federation={"rounds": 1},
        ctr={"baselines": [], "max_epochs": 1},
        **({"privacy": release} if private else {}),
    )
    markets = prepare_markets(config.data)
    noise = {name: {} for name in markets}
    if private:
        sizes = market_sizes(config, sorted(markets), markets)
        noise = {name: SpendingPlan.of(config, name, sizes).noise for name in markets}
    retraining = Retraining(config, markets, "m0", ("fedmm",), {}, noise)
    kept = np.arange(markets["m0"].market.n_users) % 2 == 0
    halves = [without_users(markets["m0"], own) for own in (kept, ~kept)]
    ((target, models),) = retraining.train(halves, 0)
    assert target == "fedmm"
    first, second = (model.coded.embedding for model in models)
    assert not np.allclose(first.item_factors_, second.item_factors_)
    for model in models:
        assert isinstance(model.coded.embedding, SharedDPSVDEmbedding if private else SharedSVDEmbedding)
        shown = model.scores(history_matrix(markets["m0"].market, markets["m0"].split.train)[:5], np.arange(10))
        assert shown.shape == (5, 10)
        assert np.isfinite(shown).all()
