"""Games against sums over a shared catalogue: the canary moves them by the whole sensitivity, and faults show."""

from functools import partial

import pytest

from attacks.auditing.audit import USER, stage_games
from attacks.auditing.faults import noise_scaled
from attacks.auditing.games import play_shared_counts, play_shared_gram
from fedmm_secure.guarantee.stages import SHARED_COUNTS, SHARED_GRAM
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.shared_parts import norm_of
from tests.conftest import tiny

GAMES, MULTIPLIER = 500, 1.0
PLAYS = {SHARED_COUNTS: play_shared_counts, SHARED_GRAM: play_shared_gram}


def games(stage):
    return partial(PLAYS[stage], norm_of(MULTIPLIER, 2), 2)(GAMES, NoiseSource.from_entropy)


@pytest.mark.parametrize("stage", [SHARED_COUNTS, SHARED_GRAM])
def test_scores_are_log_likelihood_ratios_of_the_whole_sensitivity(stage):
    """Means apart by 1/σ², within 5.5 standard errors: a false alarm has a probability below 1e-7."""
    found = games(stage)
    assert found.inside.mean() - found.outside.mean() == pytest.approx(1.0, abs=0.35)
    assert found.outside.std() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("stage", [SHARED_COUNTS, SHARED_GRAM])
def test_half_the_noise_is_seen(stage):
    with noise_scaled(0.5):
        found = games(stage)
    assert found.outside.std() == pytest.approx(0.5, abs=0.1)


def test_both_sums_are_audited_where_they_carry_noise():
    stages = {game.stage: game.kind for game in stage_games(tiny(), dict.fromkeys(PLAYS, 2.0), 40, 3)}
    assert stages == dict.fromkeys(PLAYS, USER)
