"""Scores beside the published formulas of other tools, written here as plainly as they are stated.

TF Privacy, ``advanced_mia.compute_score_lira`` and ``compute_score_offset``; Privacy Meter, ``attacks.run_rmia``. Both
hold one query at a time, loop over shadow models, and take medians or probabilities as they do.
"""

import numpy as np
import pytest
from scipy import special, stats

from attacks.membership.scores import RMIA_GAMMA, blocks, calibrated, lira_empirical_bayes, lira_online, rmia
from tests.curves import coins

AGREE = 0.98
MODELS, QUERIES = 64, 300


@pytest.fixture(scope="module")
def shown():
    """Logits of 64 models: queries of unequal difficulty, members more confident, of easy ones less so."""
    member, rng = coins(MODELS, QUERIES, 3)
    difficulty = rng.normal(0.0, 2.0, QUERIES)
    effect = 2.0 * special.expit(-difficulty / 2)
    return difficulty + effect * member + 0.7 * rng.normal(size=member.shape), member


def each_target(shown, formula):
    """Rank correlation of a reference with a score, in each model, against the same shadows."""
    confidence, member = shown
    for targets, shadows in blocks(MODELS):
        for target in targets[::4]:
            own = [formula(confidence[target, i], confidence[shadows, i], member[shadows, i]) for i in range(QUERIES)]
            yield target, np.array(own)


def agreement(shown, formula, score):
    scores = score(*shown)
    return min(stats.spearmanr(own, scores[target]).statistic for target, own in each_target(shown, formula))


@pytest.mark.parametrize("average", [np.median, np.mean])
def test_lira_ranks_as_tf_privacy_does_with_one_variance(shown, average):
    """−compute_score_lira(option="both", fix_variance=True): their smaller is our larger."""
    confidence, member = shown
    for targets, shadows in blocks(MODELS):
        values, inside = confidence[shadows], member[shadows]
        sides = []
        for side in (inside, ~inside):
            middle = [average(values[side[:, i], i]) for i in range(QUERIES)]
            spread = np.std(np.concatenate([values[side[:, i], i] - middle[i] for i in range(QUERIES)]))
            sides.append((np.array(middle), spread))
        for target in targets[::4]:
            own = confidence[target]
            expected = stats.norm.logpdf(own, *sides[0]) - stats.norm.logpdf(own, *sides[1])
            ours = lira_online(*shown)[target]
            assert stats.spearmanr(expected, ours).statistic >= (AGREE if average is np.median else 0.999)


def test_calibration_ranks_as_tf_privacys_offset(shown):
    """compute_score_offset(option="out", median_or_mean="mean")."""
    assert agreement(shown, lambda own, values, inside: own - values[~inside].mean(), calibrated) >= 0.9999


def test_empirical_bayes_ranks_as_lira_where_shadows_are_many(shown):
    """With 48 shadows there is little left to shrink."""
    plain, shrunken = lira_online(*shown), lira_empirical_bayes(*shown)
    assert np.mean([stats.spearmanr(a, b).statistic for a, b in zip(plain, shrunken, strict=True)]) >= 0.9


def test_rmia_is_that_of_privacy_meter(shown):
    """run_rmia, ratios of all pairs of queries, with the p(x) from both sides that the paper has online, and its γ."""
    confidence, member = shown
    ours = rmia(confidence, member)
    probability = special.expit(confidence)
    for targets, shadows in blocks(MODELS):
        mean = np.array(
            [
                0.5 * probability[shadows, i][member[shadows, i]].mean()
                + 0.5 * probability[shadows, i][~member[shadows, i]].mean()
                for i in range(QUERIES)
            ]
        )
        for target in targets[::4]:
            ratio = probability[target] / mean
            share = np.array([np.average(x / ratio >= RMIA_GAMMA) for x in ratio])
            assert share == pytest.approx(ours[target], abs=1e-6)  # ties are broken below that
