import math

import pytest
from dp_accounting import dp_event, get_epsilon_gaussian

from attacks.auditing.claims import Claim, distance_of, epsilon_of, factor_at
from privacy.accounting.accountants import pld_epsilon
from privacy.mechanisms.events import dp_sgd_event


@pytest.mark.parametrize("noise_multiplier", [0.5, 1.0, 8.0])
def test_a_gaussian_claim_is_the_closed_form(noise_multiplier):
    claim = Claim((dp_event.GaussianDpEvent(noise_multiplier),), 1e-5)
    assert claim.epsilon == pytest.approx(get_epsilon_gaussian(noise_multiplier, 1e-5), rel=1e-3)
    assert claim.distance == pytest.approx(1.0 / noise_multiplier, rel=2e-3)
    assert epsilon_of(distance_of(3.0, 1e-5), 1e-5) == pytest.approx(3.0, rel=1e-6)


def test_epsilon_at_a_factor_is_that_of_the_scaled_mechanisms():
    claim = Claim((dp_event.GaussianDpEvent(3.0), dp_sgd_event(2.0, 0.2, 40)), 1e-5)
    scaled = [dp_event.GaussianDpEvent(1.5), dp_sgd_event(1.0, 0.2, 40)]
    assert claim.epsilon_at(0.5) == pytest.approx(pld_epsilon(scaled, 1e-5), rel=5e-3)
    assert claim.epsilon_at(1.0) == pytest.approx(claim.epsilon, rel=5e-3)


def test_the_factor_at_an_epsilon_is_where_the_mechanism_has_it():
    claim = Claim((dp_sgd_event(2.0, 0.2, 10),), 1e-5)
    factor = factor_at(claim, 2 * claim.epsilon)
    assert 1.9 * claim.epsilon <= claim.epsilon_at(factor) <= 2 * claim.epsilon


def test_nothing_released_claims_nothing_and_what_is_not_private_everything():
    assert Claim((), 1e-5).epsilon == 0.0
    assert Claim((dp_event.NonPrivateDpEvent(),), 1e-5).epsilon_at(0.5) == math.inf
    assert Claim((dp_event.GaussianDpEvent(1.0),), 1e-5).epsilon_at(1e-3) == math.inf  # beyond any guarantee
