"""A federation played again, and what colluding markets leave of its sum."""

import numpy as np
import pytest

from attacks.retraining.federations import federate, without_colluders
from fedmm_secure.collaborative.build import fit_embedding
from tests.conftest import tiny


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
