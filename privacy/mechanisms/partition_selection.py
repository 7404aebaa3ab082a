"""Which items exist, found with differential privacy: those that enough users have.

Weighted Gaussian thresholding: each user gives weight to a bounded number of items, weights are summed, and an item
whose noisy sum exceeds a threshold is published (Korolova, Kenthapadi, Mishra, Ntoulas, "Releasing search queries and
clicks privately", WWW 2009; Gopi, Gulhane, Kulkarni, Shen, Shokouhi, Yekhanin, "Differentially private set union", ICML
2020; Desfontaines, Voss, Gipson, "Differentially private partition selection", PoPETs 2022). Only items that some user
has are looked at: the threshold is what pays for that.

**Guarantee.** Neighbours: D, and D' with one more user, who gives weight ``w = 1/sqrt(j)`` to each of ``j <= k`` items.
Let A be the items that others gave weight to, N the user's items outside A, ``t = |N| <= j``. Noise is independent from
item to item.

- On A, the sums of D and D' differ by a vector of norm at most ``w·sqrt(j) = 1``: with noise of standard deviation m,
  which items of A pass, P under D and Q' under D', is post-processing of one Gaussian mechanism of noise multiplier m.
- No item of N occurs in D. In D' one of them passes with probability ``p = 1 - Pr[w + noise <= T]^t``, and ``p <= δ``
  by the choice of T (``threshold``).

The output Q under D' is that of Q' together with the items of N that passed, independently of it: with probability
``1 - p`` it is Q' alone. So ``Q = (1 - p) Q' + p R``, and for every ``α >= 1``, with ``H_α(P, Q) = ∫ (P - αQ)₊``:

- ``H_α(Q, P) <= (1 - p) H_α(Q', P) + p``, by convexity;
- ``H_α(P, Q) <= ∫ (P - α(1 - p)Q')₊ <= (1 - p) H_α(P, Q') + p``, for ``P = (1 - p)P + pP`` and ``(a + b)₊ <= a₊ + b₊``.

Both ways it is the Gaussian mechanism and δ more. In a composition the same holds: Q is post-processing of Q' and a
coin that shows everything with probability δ, so a run is (ε, δ' + δ)-private if it is (ε, δ')-private with the
Gaussian mechanism in this one's place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from dp_accounting.dp_event import DpEvent, GaussianDpEvent
from scipy import special

from privacy.arrays import IntArray
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.randomness import NoiseSource


def threshold(items_per_user: int, noise_multiplier: float, delta: float) -> float:
    """The least T for which items of one user alone pass with probability at most ``delta`` in all.

    A user with j items gives each ``1/sqrt(j)``. If t of them, ``t <= j``, are the user's alone, one passes with
    probability ``1 - Φ((T - 1/sqrt(j)) / m)^t <= 1 - Φ((T - 1/sqrt(j)) / m)^j``, which is ``delta`` at
    ``T_j = 1/sqrt(j) + m Φ⁻¹((1 - delta)^(1/j))``. How many items a user has is private, so T is the largest T_j over
    ``j = 1 … k``.

    The discrete Gaussian, here of scale S on the integers, has a lighter tail in the sense needed:
    ``Pr[Z >= x] <= Pr[N(0, S²) >= x - 1]`` for integers ``x >= 1`` (Canonne, Kamath, Steinke, NeurIPS 2020,
    Proposition 25), so ``Pr[a + Z > T] = Pr[Z >= T - a + 1] <= 1 - Φ((T - a) / S)`` for integers ``a <= T``: the same
    formula.

    Args:
        items_per_user: k, the most items that a user gives weight to.
        noise_multiplier: m, standard deviation of the noise over the sensitivity, 1.
        delta: in (0, 1/2).

    Returns:
        T in units of the sensitivity.
    """
    if items_per_user < 1 or not noise_multiplier > 0 or not 0 < delta < 0.5:
        raise ValueError(f"no threshold for {items_per_user} items, noise {noise_multiplier} and delta {delta}")
    j = np.arange(1, items_per_user + 1)
    upper_tail = -np.expm1(np.log1p(-delta) / j)  # 1 - (1 - δ)^(1/j)
    return float((1.0 / np.sqrt(j) - noise_multiplier * special.ndtri(upper_tail)).max())


@dataclass(frozen=True)
class Selected:
    """What partition selection releases.

    Attributes:
        items: ascending, ``(n_selected,)``.
        spare: ``(spare,)``, noise alone, in grid units.
    """

    items: IntArray
    spare: IntArray


@dataclass(frozen=True)
class PartitionSelection:
    """The mechanism.

    Attributes:
        items_per_user: k, the most items that a user gives weight to; public.
        noise_multiplier: m.
        delta: what the threshold may spend, besides what the Gaussian mechanism does.
    """

    items_per_user: int
    noise_multiplier: float
    delta: float

    @property
    def event(self) -> DpEvent:
        """What it spends besides ``delta``, which adds to δ of the whole composition: one Gaussian mechanism."""
        return GaussianDpEvent(self.noise_multiplier)

    @property
    def grid(self) -> Grid:
        """Grid of the sums."""
        return Grid.of(self.noise_multiplier)

    @property
    def grid_threshold(self) -> int:
        """The threshold in grid units, upwards: a sum has to exceed it."""
        return math.ceil(threshold(self.items_per_user, self.noise_multiplier, self.delta) / self.grid.step) + 1

    def sums(self, user: IntArray, item: IntArray, n_items: int) -> IntArray:
        """Weights that users give to items, summed: ``(n_items,)`` in grid units; 0 where no user gives any.

        Each user's weights are integers of squared norm at most the grid's bound, and depend on the user's own rows
        alone.

        Args:
            user, item: of each row, ``(n,)``; of a user's distinct items the last ``items_per_user`` take part.
            n_items: items are 0 … n_items-1.
        """
        user, item = _last_items(user, item, self.items_per_user)
        count = np.bincount(user) if len(user) else np.zeros(1, dtype=np.int64)
        weight = self.grid.cut(1.0 / np.sqrt(np.maximum(count, 1)))
        total = np.zeros(n_items, dtype=np.int64)
        np.add.at(total, item, weight[user])
        return total

    def most_drawn(self, users: int) -> int:
        """Values of noise that are drawn for ``users`` users at most: how many items they have is private."""
        return users * self.items_per_user

    def select(self, user: IntArray, item: IntArray, n_items: int, noise: NoiseSource, *, spare: int = 0) -> Selected:
        """Items that enough users have, and ``spare`` values of the noise.

        Noise is drawn for the items that occur, each its own: an item that no user has is never published, whatever a
        draw for it would have been, and the threshold pays for the difference that this makes.
        """
        total = self.sums(user, item, n_items)
        present = np.flatnonzero(total)
        drawn, left = noise.gaussian_with_spare(len(present), spare, levels=self.grid.levels)
        return Selected(np.asarray(present[total[present] + drawn > self.grid_threshold]), left)


def _last_items(user: IntArray, item: IntArray, most: int) -> tuple[IntArray, IntArray]:
    """The last ``most`` distinct items of each user, one row each."""
    user, item = user[::-1], item[::-1]
    _, first = np.unique(np.stack([user, item]), axis=1, return_index=True)
    first = np.sort(first)  # latest first, each pair once
    user, item = user[first], item[first]
    order = np.argsort(user, kind="stable")
    user, item = user[order], item[order]
    starts = np.r_[0, np.cumsum(np.bincount(user))] if len(user) else np.zeros(1, dtype=np.int64)
    kept = np.arange(len(user)) - starts[user] < most
    return user[kept], item[kept]
