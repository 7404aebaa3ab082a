"""Public bins of a private model's scores, and how much of them is one user's: what noisy figures are planned by."""

from __future__ import annotations

import numpy as np

from privacy.mechanisms.histograms import Contribution

# Edges of the bins, in log odds: public, fine where scores lie as a rule, since a candidate is a positive with odds of
# 1 to 4. Ties within bins cost an AUC about .001.
LOG_ODDS = np.concatenate([[-5.0, -4.5, -4.0, -3.5], np.arange(-24, 1) / 8.0, [0.5, 1.0, 1.5, 2.0]])
N_BINS = len(LOG_ODDS) + 1  # the outer ones are open


def contribution(per_positive: int) -> Contribution:
    """What a user contributes to the histograms of one model: a positive and its negatives."""
    return Contribution(positives=1, negatives=per_positive)
