import numpy as np
import pytest

from attacks.poisoning.evaluate import HONEST, UNDEFENDED, poison, poison_under_masks
from attacks.poisoning.strategies import (
    BOOST,
    STRATEGIES,
    MedianOfGroups,
    NormBound,
    admits_groups,
    collapse,
    hijack,
    mean,
    scaling,
    sign_flip,
)
from attacks.retraining.federations import federate
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.guarantee.multipliers import plan_noise
from tests.conftest import tiny
from tests.faults import LEAST

RNG = np.random.default_rng(0)
WORDS, MOVEMENT = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 3))


def test_strategies_move_the_mean_where_they_say():
    cohort = 5
    silent = [np.zeros_like(WORDS)] * (cohort - 1)
    assert np.allclose(mean([sign_flip(MOVEMENT, WORDS, cohort), *silent]), -BOOST * MOVEMENT / cohort)
    assert np.allclose(mean([scaling(MOVEMENT, WORDS, cohort), *silent]), BOOST * MOVEMENT / cohort)
    collapsed = WORDS + mean([collapse(MOVEMENT, WORDS, cohort), *silent])
    assert np.allclose(collapsed, WORDS.mean(0))
    busiest = np.linalg.norm(MOVEMENT, axis=1).argmax()
    moved = WORDS + mean([hijack(MOVEMENT, WORDS, cohort), *silent])
    assert np.allclose(moved[busiest], -WORDS[busiest])


def test_a_norm_bound_limits_what_one_market_can_do():
    honest = [0.1 * RNG.normal(size=(6, 3)) for _ in range(4)]
    bound = NormBound(max(float(np.linalg.norm(found)) for found in honest))
    poisoned = bound([*honest, 1e6 * MOVEMENT])
    assert np.linalg.norm(poisoned - bound([*honest, np.zeros_like(MOVEMENT)])) <= bound.norm / 5 + 1e-9
    assert np.allclose(bound(honest), mean(honest))  # honest markets are left alone


@pytest.mark.parametrize("size", [1, 3])
def test_a_median_ignores_one_group_and_a_mean_does_not(size):
    honest = [np.full((2, 2), 1.0)] * 8
    poisoned = [np.full((2, 2), 1e6), *honest]
    assert np.allclose(MedianOfGroups(size)(poisoned), 1.0)
    assert mean(poisoned).max() > 1e4


def test_groups_that_hide_their_markets_need_nine_of_them():
    assert [admits_groups(n) for n in (7, 8, 9)] == [False, False, True]
    # ten markets in groups of three: the last one joins the group before
    assert np.allclose(MedianOfGroups(3)([np.array([float(i)]) for i in range(10)]), 4.0)


def test_collapse_takes_the_others_codes_and_a_defence_gives_them_back():
    config = tiny(
        data={"synthetic": {"markets": 9, "users": 80, "items": 40, "mean_interactions": 10}},
        federation={"rounds": 8, "local_epochs": 2},
        ctr={**LEAST, "features": ["counts", "user_codes", "item_codes"]},
    )
    markets = prepare_markets(config.data)
    found = {(damage.strategy, damage.defence): damage for damage in poison(config, markets, "m0")}
    assert {strategy for strategy, _ in found} == {HONEST, *STRATEGIES}
    assert {defence for _, defence in found} == {"mean", "norm bound", "median over markets", "median of groups"}
    honest = found[HONEST, "mean"]
    assert honest.loss.value == 0.0
    assert honest.agreement == 1.0
    undefended = found["collapse", "mean"]
    assert undefended.codes < 0.75 * honest.codes
    assert undefended.agreement < 0.2
    for defence in ("median over markets", "median of groups"):
        assert found["collapse", defence].codes > undefended.codes
        assert found["collapse", defence].agreement > 2 * undefended.agreement


PRIVATE = {"epsilon": 8.0, "protect": "federation", "quantizer": {"steps_per_round": 1}}


@pytest.mark.parametrize("distributed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_with_a_budget_and_masks_one_market_can_still_take_the_codes(distributed):
    """Nobody can bound what cannot be seen; noise alone moves codes too, and stands beside it."""
    config = tiny(
        privacy={**PRIVATE, "distributed_noise": distributed},
        aggregation={"kind": "masked-ckks"},
        federation={"rounds": 4, "warm_up_rounds": 1},
        ctr=LEAST,
        workers=1,
    )
    markets = prepare_markets(config.data)
    noise = {
        name: plan_noise(config, found.market.n_items, config.privacy.delta_for(found.market.n_users))
        for name, found in markets.items()
    }
    found = {damage.strategy: damage for damage in poison_under_masks(config, markets, "m0", noise)}
    assert set(found) == {HONEST, *STRATEGIES}
    assert {(damage.defence, damage.victims) for damage in found.values()} == {(UNDEFENDED, 2)}
    assert all(0.3 < damage.auc.value < 1.0 and 1 <= damage.codes <= 8 for damage in found.values())
    assert found["collapse"].agreement < found[HONEST].agreement - 0.3
    assert found["collapse"].codes < found[HONEST].codes + 1
    with pytest.raises(ValueError, match="poison_under_masks"):
        poison(config, markets, "m0")


def test_a_malicious_market_sends_what_its_strategy_says_within_the_format():
    """A federation whose other markets move nothing but their honest movements: the sum differs by the tampering."""
    config = tiny(federation={"rounds": 1}, aggregation={"clip": 0.05})
    markets = prepare_markets(config.data)
    embeddings = {name: fit_embedding(found, config.embedding) for name, found in markets.items()}
    noise = {name: {} for name in markets}
    sent = []

    def far(movement, codewords, cohort):
        sent.append(cohort)
        return movement + 100.0

    honest, tampered = (
        federate(config, markets, noise, 0, embeddings, malicious)["m1"].federated.aggregate
        for malicious in ({}, {"m0": far})
    )
    assert sent == [3]
    moved = tampered - honest
    assert (moved > 0.0).all()
    assert (moved <= 2 * 0.05 / 3 + 1e-6).all()  # from the honest movement to the clip, over three markets
