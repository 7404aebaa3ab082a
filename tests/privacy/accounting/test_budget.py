import math
from dataclasses import replace

import numpy as np
import pytest
from dp_accounting import dp_event
from scipy import optimize, stats

from privacy.accounting.accountants import pld_epsilon, prv_epsilon
from privacy.accounting.budget import PlannedStage, plan_noise_multipliers

CHAIN = [
    PlannedStage("counts", 0.6),
    PlannedStage("embedding", 0.15, steps=4),
    PlannedStage("quantizer", 0.05, steps=40, sampling_rate=0.2),
    PlannedStage("ctr", 0.2, steps=100, sampling_rate=0.3),
]


def events(stages, multipliers):
    return [stage.event(multipliers[stage.name]) for stage in stages]


def analytic_gaussian_epsilon(noise_multiplier, delta):
    """Balle and Wang, ICML 2018, theorem 8: solved for ε."""

    def excess(epsilon):
        mu = 1.0 / noise_multiplier
        upper = stats.norm.cdf(mu / 2 - epsilon / mu)
        lower = math.exp(epsilon + stats.norm.logcdf(-mu / 2 - epsilon / mu))
        return upper - lower - delta

    return optimize.brentq(excess, 0.0, 400.0, xtol=1e-12)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0, 16.0])
def test_the_plan_spends_the_budget_and_not_more(epsilon):
    found = plan_noise_multipliers(CHAIN, epsilon=epsilon, delta=2e-4)
    spent = pld_epsilon(events(CHAIN, found), 2e-4)
    assert 0.98 * epsilon < spent <= epsilon


def test_equal_shares_of_single_gaussians_get_equal_noise_and_halved_shares_more():
    found = plan_noise_multipliers([PlannedStage("a", 1.0), PlannedStage("b", 1.0)], epsilon=1.0, delta=1e-5)
    assert found["a"] == found["b"]
    found = plan_noise_multipliers([PlannedStage("a", 2.0), PlannedStage("b", 1.0)], epsilon=1.0, delta=1e-5)
    assert found["b"] == pytest.approx(math.sqrt(2.0) * found["a"])


def test_noise_that_is_set_elsewhere_leaves_the_rest_to_the_others():
    """What the given stage does not spend, the others do; all together meet the budget."""
    alone = plan_noise_multipliers(CHAIN, epsilon=4.0, delta=2e-4)
    given = [replace(stage, given=2.0 * alone["counts"]) if stage.name == "counts" else stage for stage in CHAIN]
    found = plan_noise_multipliers(given, epsilon=4.0, delta=2e-4)
    assert found["counts"] == 2.0 * alone["counts"]
    assert all(found[stage.name] < 0.8 * alone[stage.name] for stage in CHAIN[1:])
    assert 0.98 * 4.0 < pld_epsilon(events(CHAIN, found), 2e-4) <= 4.0


def test_a_stage_without_a_share_is_refused():
    with pytest.raises(ValueError, match="positive share"):
        plan_noise_multipliers([PlannedStage("a", 0.0)], epsilon=1.0, delta=1e-5)


def grid():
    """200 configurations of the chain and of single mechanisms."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        sigmas = np.exp(rng.uniform(np.log(0.5), np.log(12), 2))
        rates, noise = rng.uniform(0.02, 0.6, 2), np.exp(rng.uniform(np.log(0.9), np.log(15), 2))
        steps = rng.integers(1, 300, 2)
        delta = 10 ** rng.uniform(-6, -3)
        yield "chain", (sigmas, rates, noise, steps), delta
    for _ in range(100):
        yield "gaussian", float(np.exp(rng.uniform(np.log(0.3), np.log(20)))), 10 ** rng.uniform(-6, -3)


def chain_events(choices):
    sigmas, rates, noise, steps = choices
    single = [dp_event.GaussianDpEvent(float(sigma)) for sigma in sigmas]
    trained = [
        dp_event.SelfComposedDpEvent(
            dp_event.PoissonSampledDpEvent(float(rate), dp_event.GaussianDpEvent(float(sigma))), int(count)
        )
        for rate, sigma, count in zip(rates, noise, steps, strict=True)
    ]
    return [*single, *trained]


def check(case):
    kind, choices, delta = case
    if kind == "gaussian":
        exact = analytic_gaussian_epsilon(choices, delta)
        assert pld_epsilon([dp_event.GaussianDpEvent(choices)], delta) == pytest.approx(exact, rel=1e-3), case
        return
    composed = chain_events(choices)
    pld, prv = pld_epsilon(composed, delta), prv_epsilon(composed, delta)
    assert pld == pytest.approx(prv, rel=0.01), case


@pytest.mark.parametrize("case", [*list(grid())[:8], *list(grid())[100:130]], ids=str)
def test_accountants_agree_with_each_other_and_with_the_closed_form(case):
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", list(grid()), ids=str)
def test_accountants_agree_on_the_whole_grid(case):
    check(case)


@pytest.mark.parametrize(("epsilon", "other"), [(1e4, "smaller"), (1e-9, "larger")])
def test_a_budget_that_no_noise_spends_says_which_way_to_go(epsilon, other):
    stage = PlannedStage("embedding", share=1.0, steps=1, sampling_rate=1.0)
    with pytest.raises(ValueError, match=f"no noise from 0.05 to 10000 .* choose a {other} epsilon"):
        plan_noise_multipliers([stage], epsilon=epsilon, delta=1e-5)
