"""Membership scores from a model's confidence in each query.

All take confidences ``(n_models, n_queries)``, logits of the probability that the model gives to the pair, and
membership of the same shape. Each model is the target once; the others are the adversary's shadow models.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from sklearn.ensemble import HistGradientBoostingClassifier

Confidences = NDArray[np.float64]
Membership = NDArray[np.bool_]
Score = Callable[[Confidences, Membership], Confidences]
PRIOR_FREEDOM = 12  # how many observations the fitted variance is worth
BLOCKS = 4
RMIA_GAMMA = 2.0  # as in the paper's experiments


def loss_threshold(confidence: Confidences, member: Membership) -> Confidences:
    """Yeom et al., CSF 2018: low loss means member. Needs no shadow model."""
    return confidence


def calibrated(confidence: Confidences, member: Membership) -> Confidences:
    """Difficulty calibration (Watson et al., ICLR 2022): confidence over that of models without the query."""
    return _over_shadows(confidence, member, lambda own, values, inside: own - _mean(values, ~inside))


def lira_offline(confidence: Confidences, member: Membership) -> Confidences:
    """Offline LiRA with one variance (Carlini et al., S&P 2022, section VI.C): shadows without the query alone."""

    def score(own: NDArray[np.float64], values: Confidences, inside: Membership) -> NDArray[np.float64]:
        mean = _mean(values, ~inside)
        return np.asarray(stats.norm.logcdf(own, mean, _pooled_std(values, mean, ~inside)))

    return _over_shadows(confidence, member, score)


def rmia(confidence: Confidences, member: Membership) -> Confidences:
    """Robust membership inference, online (Zarifzadeh, Liu, Shokri, ICML 2024, equations 3 and 4).

    Share of population queries ``z`` over which the query's likelihood ratio, probability under the target over mean
    probability under the shadow models, exceeds theirs ``RMIA_GAMMA`` times. The other queries are the population.
    """

    def score(own: NDArray[np.float64], values: Confidences, inside: Membership) -> NDArray[np.float64]:
        expected = special.expit(values)
        mean = 0.5 * (_mean(expected, inside) + _mean(expected, ~inside))
        log_ratio = special.log_expit(own) - np.log(mean)
        return np.asarray(
            np.searchsorted(np.sort(log_ratio), log_ratio - np.log(RMIA_GAMMA), side="right") / len(log_ratio)
            + 1e-9 * stats.rankdata(log_ratio)  # the share is coarse: ties follow the ratio
        )

    return _over_shadows(confidence, member, score)


def _over_shadows(
    confidence: Confidences,
    member: Membership,
    score: Callable[[NDArray[np.float64], Confidences, Membership], NDArray[np.float64]],
) -> Confidences:
    """Each model's score from its own confidences and the other models' confidences and membership."""
    everything = np.arange(len(confidence))
    return np.stack(
        [score(confidence[own], confidence[everything != own], member[everything != own]) for own in everything]
    )


def lira_online(confidence: Confidences, member: Membership) -> Confidences:
    """Online LiRA with one variance for all queries (Carlini et al., S&P 2022, section VI).

    Log-likelihood ratio of the target's confidence between Gaussians fitted, per query, to the shadow models
    that were trained with the query and to those that were not.
    """

    def score(own: NDArray[np.float64], values: Confidences, inside: Membership) -> NDArray[np.float64]:
        mean_in, mean_out = _mean(values, inside), _mean(values, ~inside)
        std_in, std_out = _pooled_std(values, mean_in, inside), _pooled_std(values, mean_out, ~inside)
        return np.asarray(stats.norm.logpdf(own, mean_in, std_in) - stats.norm.logpdf(own, mean_out, std_out))

    return _over_shadows(confidence, member, score)


def lira_empirical_bayes(confidence: Confidences, member: Membership) -> Confidences:
    """Online LiRA with few shadow models: per-query effects shrunk towards what similar queries show.

    With a handful of shadow models on each side, LiRA's two means per query are mostly noise. Here the effect of
    membership on a query's confidence has a Gaussian prior, whose mean is quadratic in the query's mean
    confidence over the shadow models and whose variance is estimated from all queries (empirical Bayes, Morris,
    JASA 1983); the variance of a query is shrunk towards a log-quadratic fit in the same way. Confidences are
    first replaced by normal scores of their ranks within each model, since models differ in the scale of their
    logits by how long they trained. The score is the log-likelihood ratio at the posterior mean of the effect.
    """
    ranks = stats.rankdata(confidence, axis=1)
    confidence = stats.norm.ppf(ranks / (confidence.shape[1] + 1))

    def score(own: NDArray[np.float64], values: Confidences, inside: Membership) -> NDArray[np.float64]:
        n_in, n_out = np.maximum(inside.sum(0), 1), np.maximum((~inside).sum(0), 1)
        mean_in, mean_out = _mean(values, inside), _mean(values, ~inside)
        effect = mean_in - mean_out
        residual = values - np.where(inside, mean_in, mean_out)
        freedom = max(len(values) - 2, 1)
        variance = _shrunken_variance(values.mean(0), (residual**2).sum(0) / freedom, freedom)
        sampling = variance * (1.0 / n_in + 1.0 / n_out)
        prior = _quadratic_fit(values.mean(0), effect)
        spread = max(float(((effect - prior) ** 2 - sampling).mean()), 0.0)
        effect = prior + spread / (spread + sampling) * (effect - prior)
        middle = (values - inside * effect).mean(0) + effect / 2
        return np.asarray(effect * (own - middle) / (variance * (1.0 + 1.0 / len(values))))

    return _over_shadows(confidence, member, score)


def combine(observed: NDArray[np.float64], member: Membership) -> Confidences:
    """White box: the ratios of several statistics ``(n_models, n_queries, n_statistics)``, as if independent."""
    return np.asarray(sum(lira_empirical_bayes(observed[:, :, index], member) for index in range(observed.shape[2])))


def multi_query(statistics: NDArray[np.float64], member: Membership, known: NDArray[np.float64]) -> Confidences:
    """Ratios of several statistics of a query, combined by a classifier that is trained on the shadow models.

    Membership of a row moves more than its own score: the whole account, and the items near it. Target models are
    held out in blocks: neither the classifier nor the ratios that it is trained on have seen their block.

    Args:
        statistics: ``(n_models, n_queries, n_statistics)``.
        member: ``(n_models, n_queries)``.
        known: what the adversary knows of each query beforehand, ``(n_queries, k)``.
    """

    def ratios(values: NDArray[np.float64], inside: Membership) -> NDArray[np.float64]:
        found = [lira_empirical_bayes(values[:, :, index], inside) for index in range(values.shape[2])]
        facts = (np.broadcast_to(fact, inside.shape) for fact in (values[:, :, 0].mean(0), *known.T))
        return np.stack([*found, *facts], axis=2)

    scores, everything = np.empty(member.shape), np.arange(len(member))
    whole = ratios(statistics, member)
    for block in np.array_split(everything, min(BLOCKS, len(member))):
        others = np.setdiff1d(everything, block)
        examples = ratios(statistics[others], member[others])
        classifier = HistGradientBoostingClassifier(max_iter=200, max_leaf_nodes=16, random_state=0)
        classifier.fit(examples.reshape(-1, examples.shape[2]), member[others].ravel())
        for target in block:
            scores[target] = classifier.decision_function(whole[target])
    return scores


SCORES: dict[str, Score] = {
    "loss threshold": loss_threshold,
    "calibrated": calibrated,
    "LiRA": lira_online,
    "LiRA, offline": lira_offline,
    "LiRA, empirical Bayes": lira_empirical_bayes,
    "RMIA": rmia,
}


def _shrunken_variance(x: NDArray[np.float64], variance: NDArray[np.float64], freedom: int) -> NDArray[np.float64]:
    """Average of each query's variance and of a fit over all queries, weighted alike; mean preserved by the fit."""
    fitted = np.exp(_quadratic_fit(x, np.log(variance + 1e-12)))
    fitted *= variance.mean() / max(float(fitted.mean()), 1e-300)
    return np.asarray((PRIOR_FREEDOM * fitted + freedom * variance) / (PRIOR_FREEDOM + freedom) + 1e-12)


def _quadratic_fit(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled = (x - x.mean()) / (x.std() + 1e-12)
    return np.asarray(np.polynomial.Polynomial.fit(scaled, y, 2)(scaled))


def _mean(values: Confidences, chosen: Membership) -> NDArray[np.float64]:
    return np.asarray((values * chosen).sum(0) / np.maximum(chosen.sum(0), 1))


def _pooled_std(values: Confidences, mean: NDArray[np.float64], chosen: Membership) -> float:
    squares = np.where(chosen, (values - mean) ** 2, 0.0).sum()
    freedom = max(int(chosen.sum() - chosen.any(0).sum()), 1)  # one mean was fitted per query
    return float(np.sqrt(squares / freedom) + 1e-12)
