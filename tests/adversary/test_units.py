"""Distributed noise in units of its own: a large market's part is nothing beside a small market's sensitivity."""

import math

import dp_accounting
import numpy as np
import pytest
from scipy import stats

from fedmm_secure.guarantee.mechanisms import dp_sgd
from fedmm_secure.guarantee.multipliers import MarketSize, market_noise, plan_noise
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.shared_noise import shared_noise
from fedmm_secure.guarantee.stages import QUANTIZER
from privacy.accounting.accountants import pld_epsilon
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.randomness import LEVELS
from tests.conftest import tiny

USERS = {"ca": 5675, "de": 2373, "fr": 2396, "in": 239, "jp": 487, "mx": 1878, "uk": 4847}
SIZES = {name: MarketSize(users, 1000) for name, users in USERS.items()}


def config(epsilon=8.0, share=0.4):
    return tiny(
        data={"synthetic": {"markets": 7, "users": 80, "items": 40}},
        embedding={"kind": "svd"},
        federation={"rounds": 40},
        privacy={
            "epsilon": epsilon,
            "shares": {"quantizer": share},
            "distributed_noise": True,
            "quantizer": {"steps_per_round": 1, "clipping_norm": 1.0},
        },
        aggregation={"kind": "masked-ckks"},
    )


def planned(settings):
    return {
        name: plan_noise(settings, size.items, settings.privacy.delta_for(size.users))[QUANTIZER]
        for name, size in SIZES.items()
    }


def epsilon_at(settings, market, multiplier):
    """ε of a market if the sum's noise is ``multiplier`` times what one of its users can move."""
    event = dp_sgd(settings.privacy.quantizer, multiplier).event(settings.federation.rounds)
    return pld_epsilon([event], settings.privacy.delta_for(USERS[market]), interval=1e-2)


def broken_multiplier(settings, market, colluder):
    """As it was: every market divides its gradients and its part of the noise by its own batch size."""
    noise, rate = planned(settings), settings.privacy.quantizer.sampling_rate
    honest = len(USERS) - settings.privacy.colluding_markets
    parts = {name: noise[name] / math.sqrt(honest) / (rate * USERS[name]) for name in USERS}
    left = math.sqrt(sum(part**2 for name, part in parts.items() if name != colluder))
    return left * rate * USERS[market]


def test_parts_in_units_of_their_own_leave_small_markets_without_noise():
    settings = config()
    # the smallest market's part is the largest; whoever subtracts it leaves nothing that is of its size
    true = epsilon_at(settings, "jp", broken_multiplier(settings, "jp", "in"))
    assert true > 3 * settings.privacy.epsilon


@pytest.mark.parametrize("epsilon", [8.0, 2.0])
def test_in_one_unit_every_market_has_what_it_was_promised_whoever_colludes(epsilon):
    settings = config(epsilon)
    noise, shared = planned(settings), shared_noise(settings, SIZES)
    part = shared.step * scale(LEVELS)  # of one market, in the unit of a gradient sum
    left = part * math.sqrt(len(USERS) - settings.privacy.colluding_markets)
    for market in USERS:
        multiplier = left / settings.privacy.quantizer.clipping_norm
        assert multiplier >= noise[market] * (1 - 1e-12)
        assert epsilon_at(settings, market, multiplier) <= epsilon


def test_brute_force_of_one_step_agrees_with_the_accountant():
    """Every probability of the sum of all honest parts, with and without one user: (ε, δ) of the discrete law."""
    settings = config()
    shared = shared_noise(settings, SIZES)
    spread = math.sqrt(shared.honest_parts) * scale(LEVELS)
    moved = math.floor(settings.privacy.quantizer.clipping_norm / shared.step)  # a user, all in one coordinate
    k = np.arange(-math.ceil(9 * spread), math.ceil(9 * spread) + moved)
    log_with, log_without = -((k - moved) ** 2) / (2 * spread**2), -(k**2) / (2 * spread**2)
    total = spread * math.sqrt(2 * math.pi)
    for epsilon in (0.1, 0.5, 1.0):
        exact = np.maximum(np.exp(log_with) - np.exp(epsilon + log_without), 0).sum() / total
        multiplier = spread / moved
        continuous = stats.norm.cdf(0.5 / multiplier - epsilon * multiplier) - math.exp(epsilon) * stats.norm.cdf(
            -0.5 / multiplier - epsilon * multiplier
        )
        assert exact == pytest.approx(continuous, rel=1e-4, abs=1e-12)
        assert dp_accounting.get_epsilon_gaussian(multiplier, exact) == pytest.approx(epsilon, rel=1e-3)


def test_one_unit_beside_sums_over_a_shared_catalogue():
    """A market's multiplier is solved again beside those of the sums: where it was larger, only that market knew."""
    settings = tiny(
        data={"synthetic": {"markets": 3, "users": 200, "items": 60}, "shared_items": True},
        privacy={
            "epsilon": 3.0,
            "protect": "release",
            "distributed_noise": True,
            "quantizer": {"steps_per_round": 1},
            "contribution": {"reference_date": "2022-01-01"},
            "ctr": {"steps": 100},
        },
        embedding={"kind": "dp-svd", "private": {"dim": 4}},
        ctr={"baselines": []},
        aggregation={"kind": "masked-ckks"},
    )
    sizes = {f"m{number}": MarketSize(users, 60) for number, users in enumerate((200, 900, 5000))}
    own = {name: market_noise(settings, name, sizes)[QUANTIZER] for name in sizes}
    alone = [plan_noise(settings, 60, settings.privacy.delta_for(size.users))[QUANTIZER] for size in sizes.values()]
    assert len({max(*alone, noise) for noise in own.values()}) > 1  # as it was: two units in one sum
    plans = [SpendingPlan.of(settings, name, sizes, {QUANTIZER: noise}) for name, noise in own.items()]
    units = {plan.shared for plan in plans}
    assert units == {shared_noise(settings, sizes)}
    assert shared_noise(settings, sizes).noise_multiplier >= max(own.values())
