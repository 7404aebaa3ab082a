"""Baselines that are scores: popularity, noisy popularity, SVD; calibrated to probabilities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from dp_accounting.dp_event import GaussianDpEvent
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fedmm_secure.collaborative.dp_svd import release_counts
from fedmm_secure.collaborative.svd import SVDEmbedding
from fedmm_secure.config import ContributionConfig, PrivacyConfig
from fedmm_secure.ctr.histories import History
from fedmm_secure.data.candidates import Candidates
from fedmm_secure.data.market import FloatArray
from fedmm_secure.data.prepare import PreparedMarket
from privacy.accounting.accountants import solve_noise_multiplier
from privacy.mechanisms.randomness import NoiseSource

SVD_DIMS = (8, 16, 32, 64, 128)
SVD_POPULARITY = (0.0, 0.25, 0.5)


class ScoreBaselines:
    """Scores of one market's test candidates, as click probabilities.

    Args:
        prepared: the market.
        history: of its training rows.
        privacy: the budget that noisy counts have to themselves.
    """

    def __init__(self, prepared: PreparedMarket, history: History, privacy: PrivacyConfig) -> None:
        self.prepared, self.history, self.privacy = prepared, history, privacy

    def popularity(self) -> FloatArray:
        """Click probabilities by training counts."""
        return self._calibrated(lambda pairs: np.log1p(self.history.item_count[pairs.item]))

    def noisy_popularity(self, recent: bool, noise: NoiseSource) -> FloatArray:
        """Click probabilities by noisy counts that have the whole budget to themselves.

        Args:
            recent: weight users' rows as the run's own counts do, instead of evenly.
            noise: private randomness.
        """
        market, privacy = self.prepared.market, self.privacy
        if privacy.epsilon is None:
            raise ValueError("noisy popularity needs privacy.epsilon")
        multiplier = solve_noise_multiplier(
            GaussianDpEvent, epsilon=privacy.epsilon, delta=privacy.delta_for(market.n_users)
        )
        even = ContributionConfig(rank_decay=1.0)
        choices = privacy.contribution if recent else even
        counts = release_counts(market, self.prepared.split.train, choices, multiplier, noise)
        return self._calibrated(lambda pairs: counts.scaled[pairs.item])

    def svd(self) -> FloatArray:
        """Click probabilities by SVD score; rank and popularity exponent chosen by validation AUC."""
        count = np.maximum(self.history.item_count, 1.0)
        best, best_score = -np.inf, self._svd_score(SVD_DIMS[0], SVD_POPULARITY[0], count)
        for dim in SVD_DIMS:
            for exponent in SVD_POPULARITY:
                score = self._svd_score(dim, exponent, count)
                auc = roc_auc_score(self.prepared.valid.label, score(self.prepared.valid))
                if auc > best:
                    best, best_score = auc, score
        return self._calibrated(best_score)

    def _svd_score(self, dim: int, exponent: float, count: FloatArray) -> Callable[[Candidates], FloatArray]:
        if not hasattr(self, "_svd"):
            self._svd = SVDEmbedding(max(SVD_DIMS)).fit(self.history.matrix)
        users, items = self._svd.user_factors_[:, :dim], self._svd.item_factors_[:, :dim]
        return lambda pairs: (users[pairs.user] * items[pairs.item]).sum(1) * count[pairs.item] ** exponent

    def _calibrated(self, score: Callable[[Candidates], FloatArray]) -> FloatArray:
        """Probabilities of the test candidates, by logistic regression on validation scores."""
        valid, test = score(self.prepared.valid), score(self.prepared.test)
        spread = max(float(valid.std()), 1e-12)
        logistic = LogisticRegression(C=1e3).fit((valid / spread)[:, None], self.prepared.valid.label)
        slope = float(logistic.coef_[0, 0]) / spread
        # a score that ranks below chance stays below chance: the order is never turned round
        logit = max(slope, 1e-9) * (test - valid.mean()) + (
            logistic.intercept_[0] + slope * valid.mean() if slope > 0 else _log_odds(self.prepared.valid.label)
        )
        return np.asarray(1.0 / (1.0 + np.exp(-logit)))


def _log_odds(label: FloatArray) -> float:
    share = float(label.mean())
    return float(np.log(share / (1.0 - share)))
