"""What a malicious market sends instead of its movement, and what may stand against it.

A movement is ``(n_codes, latent_dim)``. Whatever is sent passes the fixed-point format, so that no coordinate exceeds
the agreed clip. Attackers know the cohort's size and the codebook of the round, as every market does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attacks.retraining.federations import BOOST, Tamper
from fedmm_secure.data.market import FloatArray

Defence = Callable[[Sequence[FloatArray]], FloatArray]


def sign_flip(movement: FloatArray, codewords: FloatArray, cohort: int) -> FloatArray:
    """Away from where the market's own users pull, tenfold (boosted as by Bagdasaryan et al., AISTATS 2020)."""
    return -BOOST * movement


def scaling(movement: FloatArray, codewords: FloatArray, cohort: int) -> FloatArray:
    """Where the market's own users pull, tenfold: the global codebook becomes the market's own."""
    return BOOST * movement


def hijack(movement: FloatArray, codewords: FloatArray, cohort: int) -> FloatArray:
    """The codeword that moves most is sent to the opposite side of the codebook; the others move as they would."""
    moved = movement.copy()
    busiest = int(np.linalg.norm(movement, axis=1).argmax())
    moved[busiest] = cohort * (-codewords[busiest] - codewords[busiest])
    return moved


def collapse(movement: FloatArray, codewords: FloatArray, cohort: int) -> FloatArray:
    """Every codeword is drawn to one point, so that codes tell nothing apart."""
    return np.asarray(cohort * (codewords.mean(0, keepdims=True) - codewords))


STRATEGIES: Mapping[str, Tamper] = {
    "sign flip": sign_flip,
    "scaling": scaling,
    "hijack": hijack,
    "collapse": collapse,
}


def mean(movements: Sequence[FloatArray]) -> FloatArray:
    """What the federation does: any market can move the mean as far as the clip lets it."""
    return np.asarray(np.mean(movements, axis=0))


@dataclass(frozen=True)
class NormBound:
    """Each movement is scaled down to a Euclidean norm (Sun et al., 2019) before the mean.

    Under ``plaintext`` the server can do it. Under encryption only the sender can: against a market that lies it needs
    a zero-knowledge proof of the norm (as in RoFL or ACORN), which CKKS here does not come with.
    """

    norm: float

    def __call__(self, movements: Sequence[FloatArray]) -> FloatArray:
        """Movement of the sum's mean, of movements ``(n, *shape)`` that are as long as the bound at most."""
        bounded = [found * min(1.0, self.norm / max(float(np.linalg.norm(found)), 1e-12)) for found in movements]
        return mean(bounded)


@dataclass(frozen=True)
class MedianOfGroups:
    """Coordinate-wise median of the means of groups (Yin et al., ICML 2018, median of means).

    Groups of one are the median over markets, which the server needs in the clear. Larger groups can be had under
    encryption, for each sends its own sum; every group must then meet the minimum cohort of 3, and a market's view is
    the sum over its group, no longer over all. Three groups at least make a median: nine markets.
    """

    size: int = 1

    def __call__(self, movements: Sequence[FloatArray]) -> FloatArray:
        """Movement by the median of the groups' means, of movements ``(n, *shape)``."""
        groups = [movements[start : start + self.size] for start in range(0, len(movements), self.size)]
        if len(groups) > 1 and len(groups[-1]) < self.size:  # a short last group joins the one before
            groups[-2:] = [[*groups[-2], *groups[-1]]]
        return np.asarray(np.median([mean(group) for group in groups], axis=0))


SMALLEST_GROUP, FEWEST_GROUPS = 3, 3


def admits_groups(n_markets: int) -> bool:
    """Whether a federation is large enough for a median of groups that each hide their markets."""
    return n_markets >= SMALLEST_GROUP * FEWEST_GROUPS
