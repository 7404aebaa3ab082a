"""Games against releases that train nothing: exact values of the canary, and faults that show."""

from functools import partial

import numpy as np
import pytest

from attacks.auditing.faults import noise_scaled
from attacks.auditing.games import play_gram, play_shared_counts, play_shared_gram, play_subspace
from attacks.auditing.joint import joint_test
from fedmm_secure.config import PrivateEmbeddingConfig
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.shared_parts import norm_of

CANARIES = 300
CHOICES = PrivateEmbeddingConfig(dim=4, iterations=2)
FACTORS = {"gram": play_gram, "subspace": play_subspace}
SUMS = {"shared counts": play_shared_counts, "shared gram": play_shared_gram}


def factors(method, canaries=CANARIES, sigma=1.5):
    """Of private item factors."""
    member = np.arange(canaries) % 2 == 0
    return partial(FACTORS[method], CHOICES, sigma)(member, NoiseSource.from_seed(3))


def sums(stage, multiplier=1.0):
    """Over a shared catalogue, of two markets."""
    member = np.arange(CANARIES) % 2 == 0
    return partial(SUMS[stage], norm_of(multiplier, 2), 2)(member, NoiseSource.from_seed(7))


@pytest.mark.parametrize("method", FACTORS)
def test_what_is_released_is_the_canarys_move_and_the_noise(method):
    found = factors(method)
    assert joint_test(found).p_value > 1e-3
    # with next to no noise, nothing but the move is left: 1 in sensitivities, so 1/σ apart and no spread
    quiet = factors(method, 20, sigma=0.1)
    assert np.abs(quiet.total).max() < 5
    assert quiet.slack < 1e-3


@pytest.mark.parametrize("method", FACTORS)
def test_half_the_noise_of_factors_is_seen(method):
    with noise_scaled(0.5):
        found = joint_test(factors(method, 60))
    assert (found.direction, found.p_value < 1e-4) == ("noise", True)


@pytest.mark.parametrize("stage", SUMS)
def test_scores_are_log_likelihood_ratios_of_the_whole_sensitivity(stage):
    """Means apart by 1/σ², within 4 standard errors."""
    found = sums(stage)
    assert found.inside.mean() - found.outside.mean() == pytest.approx(1.0, abs=0.47)
    assert joint_test(found).p_value > 1e-3


@pytest.mark.parametrize("stage", SUMS)
def test_half_the_noise_of_sums_is_seen(stage):
    with noise_scaled(0.5):
        found = sums(stage)
    assert joint_test(found).p_value < 1e-6
