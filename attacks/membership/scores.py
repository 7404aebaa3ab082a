"""Membership scores from a model's confidence in each query.

All take confidences ``(n_models, n_queries)``, logits of the probability that the model gives to the pair, and
membership of the same shape. Each model is the target once. The adversary's shadow models are those outside its block:
who is in a block's models is a fair coin that no shadow knows, and its models are independent of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedmm_secure.data.market import IntArray

Confidences = NDArray[np.float64]
MemberMatrix = NDArray[np.bool_]
_Score = Callable[[Confidences, MemberMatrix], Confidences]
_Scorer = Callable[[NDArray[np.float64]], NDArray[np.float64]]
ShadowEvidence = Callable[[IntArray], NDArray[np.float64]]
PRIOR_FREEDOM = 12  # how many observations the fitted variance is worth
BLOCKS = 4
RMIA_GAMMA = 2.0  # as in the paper's experiments


def blocks(n_models: int) -> list[tuple[IntArray, IntArray]]:
    """Numbers of the models that are attacked together, and of their shadows: all others."""
    everything = np.arange(n_models)
    return [(part, np.setdiff1d(everything, part)) for part in np.array_split(everything, min(BLOCKS, n_models))]


def loss_threshold(confidence: Confidences, member: MemberMatrix) -> Confidences:
    """Yeom et al., CSF 2018: low loss means member. Needs no shadow model."""
    return confidence


def calibrated(confidence: Confidences, member: MemberMatrix) -> Confidences:
    """Difficulty calibration (Watson et al., ICLR 2022): confidence over that of models without the query.

    Offline LiRA with one variance (Carlini et al., S&P 2022, section VI.C) ranks alike: it is monotone in this.
    """

    def fit(values: Confidences, inside: MemberMatrix) -> _Scorer:
        without = _mean(values, ~inside)
        return lambda own: own - without

    return _by_shadows(confidence, member, fit)


def rmia(confidence: Confidences, member: MemberMatrix) -> Confidences:
    """Robust membership inference, online (Zarifzadeh, Liu, Shokri, ICML 2024, equations 3 and 4).

    Share of population queries ``z`` over which the query's likelihood ratio, probability under the target over mean
    probability under the shadow models, exceeds theirs ``RMIA_GAMMA`` times. The other queries are the population.
    """

    def fit(values: Confidences, inside: MemberMatrix) -> _Scorer:
        expected = special.expit(values)
        log_mean = np.log(0.5 * (_mean(expected, inside) + _mean(expected, ~inside)))

        def score(own: NDArray[np.float64]) -> NDArray[np.float64]:
            log_ratio = special.log_expit(own) - log_mean
            return np.asarray(
                np.searchsorted(np.sort(log_ratio), log_ratio - np.log(RMIA_GAMMA), side="right") / len(log_ratio)
                + 1e-9 * stats.rankdata(log_ratio)  # the share is coarse: ties follow the ratio
            )

        return score

    return _by_shadows(confidence, member, fit)


def lira_online(confidence: Confidences, member: MemberMatrix) -> Confidences:
    """Online LiRA with one variance for all queries (Carlini et al., S&P 2022, section VI).

    Log-likelihood ratio of the target's confidence between Gaussians fitted, per query, to the shadow models
    that were trained with the query and to those that were not.
    """

    def fit(values: Confidences, inside: MemberMatrix) -> _Scorer:
        mean_in, mean_out = _mean(values, inside), _mean(values, ~inside)
        std_in, std_out = _pooled_std(values, mean_in, inside), _pooled_std(values, mean_out, ~inside)
        return lambda own: np.asarray(
            stats.norm.logpdf(own, mean_in, std_in) - stats.norm.logpdf(own, mean_out, std_out)
        )

    return _by_shadows(confidence, member, fit)


def bavaria(confidence: Confidences, member: MemberMatrix) -> Confidences:
    """LiRA with a variance of each query's own, by conjugate priors (BaVarIA-t, Brännvall, arXiv 2603.11799).

    On either side a query's confidences are normal with a normal-inverse-gamma prior: nothing is known of the mean, and
    of the variance as much as ``PRIOR_FREEDOM`` observations of the one pooled over all queries tell. The score is the
    log-likelihood ratio of the two posterior predictive laws, which are Student's t.
    """

    def fit(values: Confidences, inside: MemberMatrix) -> _Scorer:
        sides = [_predictive(values, inside), _predictive(values, ~inside)]
        return lambda own: np.asarray(sides[0].logpdf(own) - sides[1].logpdf(own))

    return _by_shadows(confidence, member, fit)


def _predictive(values: Confidences, chosen: MemberMatrix) -> Any:
    """SciPy's Student t law of the next value of each query, from those of the chosen models."""
    count, mean = chosen.sum(0), _mean(values, chosen)
    squares = np.where(chosen, (values - mean) ** 2, 0.0).sum(0)
    freedom = PRIOR_FREEDOM + np.maximum(count - 1, 0)
    variance = (PRIOR_FREEDOM * _pooled_std(values, mean, chosen) ** 2 + squares) / freedom
    return stats.t(freedom, mean, np.sqrt(variance * (1.0 + 1.0 / np.maximum(count, 1))))


def lira_empirical_bayes(confidence: Confidences, member: MemberMatrix) -> Confidences:
    """Online LiRA with few shadow models: per-query effects shrunk towards what similar queries show.

    Confidences are first replaced by normal scores of their ranks within each model, since models differ in the scale
    of their logits by how long they trained.
    """
    return _by_shadows(normal_scores(confidence), member, fit_effects)


def normal_scores(confidence: Confidences) -> Confidences:
    """Normal quantiles of the ranks within each model."""
    return np.asarray(stats.norm.ppf(stats.rankdata(confidence, axis=1) / (confidence.shape[1] + 1)))


def fit_effects(values: Confidences, inside: MemberMatrix) -> _Scorer:
    """Log-likelihood ratio of a value at the posterior mean of what membership does to it, by empirical Bayes.

    With a handful of shadow models on each side, LiRA's two means per query are mostly noise. Here the effect of
    membership on a query's value has a Gaussian prior, whose mean is quadratic in the query's mean value over the
    shadow models and whose variance is estimated from all queries (Morris, JASA 1983); the variance of a query is
    shrunk towards a log-quadratic fit in the same way.
    """
    n_in, n_out = inside.sum(0), (~inside).sum(0)
    both = (n_in > 0) & (n_out > 0)
    mean_in, mean_out = _mean(values, inside), _mean(values, ~inside)
    effect = mean_in - mean_out
    residual = values - np.where(inside, mean_in, mean_out)
    freedom = max(len(values) - 2, 1)
    variance = _shrunken_variance(values.mean(0), (residual**2).sum(0) / freedom, freedom)
    sampling = variance * (1.0 / np.maximum(n_in, 1) + 1.0 / np.maximum(n_out, 1))
    prior = _quadratic_fit(values.mean(0), effect, both)
    spread = max(float(((effect - prior) ** 2 - sampling)[both].mean()) if both.any() else 0.0, 0.0)
    weight = np.where(both, spread / (spread + sampling), 0.0)  # where one side is missing, the prior is all there is
    effect = prior + weight * (effect - prior)
    middle = (values - inside * effect).mean(0) + effect / 2
    return lambda own: np.asarray(effect * (own - middle) / (variance * (1.0 + 1.0 / len(values))))


def _by_shadows(
    confidence: Confidences, member: MemberMatrix, fit: Callable[[Confidences, MemberMatrix], _Scorer]
) -> Confidences:
    """Each model's score, by what was fitted to confidences and membership of the models outside its block."""
    scores = np.empty(confidence.shape)
    for targets, shadows in blocks(len(confidence)):
        score = fit(confidence[shadows], member[shadows])
        for target in targets:
            scores[target] = score(confidence[target])
    return scores


def ratios(statistics: NDArray[np.float64], member: MemberMatrix) -> ShadowEvidence:
    """Evidence of several statistics ``(n_models, n_queries, n_statistics)``: the likelihood ratio of each."""

    def among(models: IntArray) -> NDArray[np.float64]:
        parts = np.moveaxis(statistics[models], 2, 0)
        return np.stack([lira_empirical_bayes(part, member[models]) for part in parts], axis=2)

    return among


def multi_query(evidence: Sequence[ShadowEvidence], member: MemberMatrix, known: NDArray[np.float64]) -> Confidences:
    """Several kinds of evidence about a query, combined by classifiers that are trained on the shadow models.

    Membership of a row moves more than its own score: the whole account, and the items near it. The log-odds of a
    logistic regression, which suits evidence that adds up, and of small boosted trees, which suit what depends on what
    is known of the query, are averaged.

    Args:
        evidence: each gives ``(n, n_queries, k)`` for ``n`` models that are each other's shadows, block by block: what
            the classifiers are trained on has not seen the models that it is asked about.
        member: ``(n_models, n_queries)``.
        known: what the adversary knows of each query beforehand, ``(n_queries, k)``.
    """

    def examples(models: IntArray) -> NDArray[np.float64]:
        facts = np.broadcast_to(known, (len(models), *known.shape))
        return np.concatenate([*(part(models) for part in evidence), facts], axis=2)

    scores = np.empty(member.shape)
    whole = examples(np.arange(len(member)))
    for targets, shadows in blocks(len(member)):
        seen = examples(shadows)
        classifiers = (
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
            HistGradientBoostingClassifier(
                max_iter=150,
                learning_rate=0.05,
                max_leaf_nodes=8,
                min_samples_leaf=50,
                l2_regularization=10.0,
                random_state=0,
            ),
        )
        for classifier in classifiers:
            classifier.fit(seen.reshape(-1, seen.shape[2]), member[shadows].ravel())
        for target in targets:
            scores[target] = np.mean([one.decision_function(whole[target]) for one in classifiers], axis=0)
    return scores


SCORES: dict[str, _Score] = {
    "loss threshold": loss_threshold,
    "calibrated": calibrated,
    "LiRA": lira_online,
    "BaVarIA": bavaria,
    "LiRA, empirical Bayes": lira_empirical_bayes,
    "RMIA": rmia,
}


def _shrunken_variance(x: NDArray[np.float64], variance: NDArray[np.float64], freedom: int) -> NDArray[np.float64]:
    """Average of each query's variance and of a fit over all queries, weighted alike; mean preserved by the fit."""
    fitted = np.exp(_quadratic_fit(x, np.log(variance + 1e-12)))
    fitted *= variance.mean() / max(float(fitted.mean()), 1e-300)
    return np.asarray((PRIOR_FREEDOM * fitted + freedom * variance) / (PRIOR_FREEDOM + freedom) + 1e-12)


def _quadratic_fit(
    x: NDArray[np.float64], y: NDArray[np.float64], known: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """A quadratic through ``y`` where it is known, at every ``x``."""
    scaled = (x - x.mean()) / (x.std() + 1e-12)
    at = np.ones(len(x), dtype=bool) if known is None else known
    if at.sum() <= 3:
        return np.zeros(len(x))
    return np.asarray(np.polynomial.Polynomial.fit(scaled[at], y[at], 2)(scaled))


def _mean(values: Confidences, chosen: MemberMatrix) -> NDArray[np.float64]:
    """Mean over the chosen models of each query; over all where none is chosen, which then says nothing."""
    count = chosen.sum(0)
    return np.asarray(np.where(count > 0, (values * chosen).sum(0) / np.maximum(count, 1), values.mean(0)))


def _pooled_std(values: Confidences, mean: NDArray[np.float64], chosen: MemberMatrix) -> float:
    squares = np.where(chosen, (values - mean) ** 2, 0.0).sum()
    freedom = max(int(chosen.sum() - chosen.any(0).sum()), 1)  # one mean was fitted per query
    return float(np.sqrt(squares / freedom) + 1e-12)
