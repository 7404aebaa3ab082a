"""Games against private item factors, by either method: exact values of the canary, and faults that show."""

from functools import partial

import numpy as np
import pytest

from attacks.auditing.faults import noise_scaled
from attacks.auditing.games import play_gram, play_subspace
from attacks.auditing.joint import joint_test
from fedmm_secure.config import PrivateEmbeddingConfig
from privacy.mechanisms.randomness import NoiseSource

SIGMA, CANARIES = 1.5, 300
CHOICES = PrivateEmbeddingConfig(dim=4, iterations=2)
PLAYS = {"gram": play_gram, "subspace": play_subspace}


def played(method, canaries=CANARIES, sigma=SIGMA):
    member = np.arange(canaries) % 2 == 0
    return partial(PLAYS[method], CHOICES, sigma)(member, NoiseSource.from_seed(3))


@pytest.mark.parametrize("method", PLAYS)
def test_what_is_released_is_the_canarys_move_and_the_noise(method):
    found = played(method)
    assert joint_test(found).p_value > 1e-3
    # with next to no noise, nothing but the move is left: 1 in sensitivities, so 1/σ apart and no spread
    quiet = played(method, 20, sigma=0.1)
    assert np.abs(quiet.total).max() < 5
    assert quiet.slack < 1e-3


@pytest.mark.parametrize("method", PLAYS)
def test_half_the_noise_is_seen(method):
    with noise_scaled(0.5):
        found = joint_test(played(method, 60))
    assert (found.direction, found.p_value < 1e-4) == ("noise", True)
