"""Membership scores from a model's confidence on the queried pair alone: the target user's own live scores.

All take confidences ``(n_models, n_queries)``, logits of the probability that the model gives to the pair, and
membership of the same shape. Each model is the target once; the others are the adversary's shadow models.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Confidences = NDArray[np.float64]
Membership = NDArray[np.bool_]
PRIOR_FREEDOM = 12  # how many observations the fitted variance is worth


def loss_threshold(confidence: Confidences, member: Membership) -> Confidences:
    """Yeom et al., CSF 2018: low loss means member. Needs no shadow model."""
    return confidence


def lira_online(confidence: Confidences, member: Membership) -> Confidences:
    """Online LiRA with one variance for all queries (Carlini et al., S&P 2022, section VI).

    Log-likelihood ratio of the target's confidence between Gaussians fitted, per query, to the shadow models
    that were trained with the query and to those that were not.
    """
    ratios = np.empty_like(confidence)
    for target in range(len(confidence)):
        shadows = np.arange(len(confidence)) != target
        inside, outside = member[shadows], ~member[shadows]
        values = confidence[shadows]
        mean_in, mean_out = _mean(values, inside), _mean(values, outside)
        std_in, std_out = _pooled_std(values, mean_in, inside), _pooled_std(values, mean_out, outside)
        observed = confidence[target]
        ratios[target] = stats.norm.logpdf(observed, mean_in, std_in) - stats.norm.logpdf(observed, mean_out, std_out)
    return ratios


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
    ratios = np.empty_like(confidence)
    for target in range(len(confidence)):
        shadows = np.arange(len(confidence)) != target
        values, inside = confidence[shadows], member[shadows]
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
        ratios[target] = effect * (confidence[target] - middle) / (variance * (1.0 + 1.0 / len(values)))
    return ratios


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
