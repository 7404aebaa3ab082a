"""What a guarantee admits in one run: how many of an attack's guesses about independent coins may be right.

Whether a unit is in a pipeline is a fair coin, independent of all others: ``N`` coins in each pipeline. A threshold is
a number ``c`` of guesses: the ``c`` highest scores of a pipeline are said to be members. ``A`` of them are right.

**Claim.** Let the guarantee have the trade-off curve ``T`` and let it hold. Then, however scores of one pipeline
depend on each other, for every ``v``::

    u(v) <= T(w(v - 1))    with    u(v) = 2/N E[A 1(A >= v)],    w(v) = 2/N E[(c - A) 1(A >= v)]

*Proof* (Mahloujifar, Melis, Chaudhuri, "Auditing f-differential privacy in one run", 2024, theorem 3.2). Fix all coins
but one, that of ``i``. "``i`` is among the guesses, and at least ``v - 1`` of the others are right" is an event of what
the pipeline showed, so that its probabilities ``p`` with ``i`` in and ``q`` with ``i`` out satisfy ``p <= T(q)``. Where
``i`` is in, it is "``i`` is right, and ``A >= v``"; where ``i`` is out, "``i`` is wrong, and ``A >= v - 1``". Averaged
over ``i`` and the other coins, and a coin being fair, the means of ``p`` and ``q`` are ``u(v)`` and ``w(v - 1)``; ``T``
is concave, so Jensen's inequality gives the claim.

**Tail.** How large can ``P(A >= v) = τ`` be? With ``k(a) = a / (c - a)``, which grows with ``a``, for ``j < v``::

    u(j) = u(v) - k(v - 1) w(v) + k(j) w(j) + sum over j < a < v of (k(a) - k(a - 1)) w(a)

has no negative factor on ``w(j) ... w(v - 1)``, and its first two terms are least where all of ``τ`` sits at ``v``. So
lower bounds follow from each other downwards: ``w(j - 1) >= max(w(j), T⁻¹(u(j)))``, then ``u(j - 1)``. Where
``u(0) + w(0)`` comes out above ``2c/N``, which is what it is, no mechanism with curve ``T`` has such a tail.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privacy.accounting.tradeoff import TradeOffCurve

_GROWTH = 1.2  # from one number of guesses to the next
_HALVINGS = 40  # of the logarithm of a probability
_SMALLEST = 1e-12


def guess_counts(coins: int) -> tuple[int, ...]:
    """Thresholds: growing numbers of guesses, up to half of the coins."""
    steps = np.arange(np.log(max(coins / 2, 1.0)) / np.log(_GROWTH))
    return tuple(sorted({*np.ceil(_GROWTH**steps).astype(int).tolist(), max(coins // 2, 1)}))


def most_right(curve: TradeOffCurve, coins: int, guesses: int, level: float) -> int:
    """The most right guesses that a curve admits: more have probability below ``level``."""
    low, high = 0, guesses + 1  # more than all of them is impossible
    while high - low > 1:
        middle = (low + high) // 2
        if is_possible(curve, coins, guesses, middle, level):
            low = middle
        else:
            high = middle
    return low


def is_possible(curve: TradeOffCurve, coins: int, guesses: int, right: int, probability: float) -> bool:
    """Whether a mechanism with that curve can have ``right`` guesses or more right with that probability."""
    u, w = 2.0 * right * probability / coins, 2.0 * (guesses - right) * probability / coins
    limit = 2.0 * guesses / coins
    for count in range(right - 1, -1, -1):
        least = curve.least_fpr(min(u, 1.0))
        if least <= w:
            return True  # and so it stays for all that are lower
        u += count / (guesses - count) * (least - w)
        w = least
        if u + w > limit:
            return False
    return True


def p_value(scores: NDArray[np.float64], member: NDArray[np.bool_], curve: TradeOffCurve) -> float:
    """Of one pipeline's scores ``(n,)``: the probability of so many right guesses where a curve holds, at most.

    Over all thresholds, either way round (highest scores in, lowest out), by the union bound.
    """
    coins, counts = len(member), guess_counts(len(member))
    inside = member[np.argsort(scores, kind="stable")]  # of equal scores the first is the lower: known before the coins
    found = [
        _tail(curve, coins, count, int(right))
        for way in (np.cumsum(inside[::-1]), np.cumsum(~inside))
        for count, right in zip(counts, way[np.array(counts) - 1], strict=True)
    ]
    return min(1.0, len(found) * min(found))


def _tail(curve: TradeOffCurve, coins: int, guesses: int, right: int) -> float:
    """The largest probability with which a curve admits so many right guesses, at most."""
    if is_possible(curve, coins, guesses, right, 1.0):
        return 1.0
    low, high = np.log(_SMALLEST), 0.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if is_possible(curve, coins, guesses, right, float(np.exp(middle))):
            low = middle
        else:
            high = middle
    return float(np.exp(high))
