"""Games against sums over a shared catalogue: the canary moves them by the whole sensitivity, and faults show."""

from functools import partial

import numpy as np
import pytest

from attacks.auditing.faults import noise_scaled
from attacks.auditing.games import play_shared_counts, play_shared_gram
from attacks.auditing.joint import joint_test
from fedmm_secure.guarantee.stages import SHARED_COUNTS, SHARED_GRAM
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.shared_parts import norm_of

CANARIES, MULTIPLIER = 300, 1.0
PLAYS = {SHARED_COUNTS: play_shared_counts, SHARED_GRAM: play_shared_gram}


def played(stage):
    member = np.arange(CANARIES) % 2 == 0
    return partial(PLAYS[stage], norm_of(MULTIPLIER, 2), 2)(member, NoiseSource.from_seed(7))


@pytest.mark.parametrize("stage", [SHARED_COUNTS, SHARED_GRAM])
def test_scores_are_log_likelihood_ratios_of_the_whole_sensitivity(stage):
    """Means apart by 1/σ², within 4 standard errors."""
    found = played(stage)
    assert found.inside.mean() - found.outside.mean() == pytest.approx(1.0, abs=0.47)
    assert joint_test(found).p_value > 1e-3


@pytest.mark.parametrize("stage", [SHARED_COUNTS, SHARED_GRAM])
def test_half_the_noise_is_seen(stage):
    with noise_scaled(0.5):
        found = played(stage)
    assert joint_test(found).p_value < 1e-6
