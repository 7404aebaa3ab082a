"""The trade-off curve of a guarantee: the most true positives that a test of membership has at each rate of false ones.

A list of privacy events says more than its (ε, δ) at one δ: it says an ε for *every* δ. Of the tests that all of these
pairs admit, the curve is the best (Dong, Roth, Su, "Gaussian differential privacy", JRSS-B 2022).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from dp_accounting.dp_event import ComposedDpEvent, DpEvent

from privacy.accounting.accountants import once_each
from privacy.accounting.events import gaussian_steps
from privacy.accounting.guarantees import Drawn, view_entries
from privacy.accounting.ledger import Entry
from privacy.accounting.losses import COARSE
from privacy.accounting.profiles import drawn_profile

_EPSILONS = np.concatenate(
    [np.linspace(0.0, 4.0, 161), np.linspace(4.1, 12.0, 80), np.linspace(12.5, 40.0, 56), np.linspace(42.0, 100.0, 30)]
)


@dataclass(frozen=True)
class TradeOffCurve:
    """``T(x)``, the most true positives at a false-positive rate ``x``: concave, increasing, at most 1.

    The least over pairs (ε, δ) of what each admits in both directions of add-or-remove-one, which is
    ``min(e^ε x + δ, 1 - e^-ε (1 - δ - x))`` (Kairouz, Oh, Viswanath, ICML 2015). Pairs that err upwards, as those of
    accountants do, make it err upwards.

    Attributes:
        epsilons, deltas: pairs that hold together.
        group: how many steps of the neighbouring relation lie between the two worlds that a test tells apart.
    """

    epsilons: tuple[float, ...]
    deltas: tuple[float, ...]
    group: int = 1

    def holding(self, epsilon: float, delta: float) -> TradeOffCurve:
        """The curve of a guarantee that states one more pair."""
        return replace(self, epsilons=(*self.epsilons, epsilon), deltas=(*self.deltas, delta))

    def grouped(self, size: int) -> TradeOffCurve:
        """The curve for worlds that are ``size`` steps apart: ``T`` applied ``size`` times.

        Group privacy (Dong, Roth, Su, theorem 2.14). For a Gaussian curve of μ it is that of ``size`` μ.
        """
        return replace(self, group=self.group * size)

    def largest_tpr(self, fpr: float) -> float:
        """``T`` at a false-positive rate."""
        for _ in range(self.group):
            segment = max(bisect_right(self._envelope.x, fpr) - 1, 0)
            fpr = min(self._envelope.slope[segment] * fpr + self._envelope.intercept[segment], 1.0)
        return fpr

    def least_fpr(self, tpr: float) -> float:
        """The smallest false-positive rate at which ``tpr`` true positives are admitted."""
        for _ in range(self.group):
            envelope = self._envelope
            segment = bisect_right(envelope.y, tpr) - 1
            if segment < 0:
                return 0.0
            if envelope.slope[segment] > 0.0:
                tpr = min(max((tpr - envelope.intercept[segment]) / envelope.slope[segment], 0.0), 1.0)
            else:
                tpr = envelope.x[segment]
        return tpr

    @cached_property
    def _envelope(self) -> _Envelope:
        pairs = list(zip(self.epsilons, self.deltas, strict=True))
        lines = [(math.exp(epsilon), delta) for epsilon, delta in pairs]
        lines += [(math.exp(-epsilon), 1.0 - math.exp(-epsilon) * (1.0 - delta)) for epsilon, delta in pairs]
        return _lower_envelope([*lines, (0.0, 1.0)])


@dataclass(frozen=True)
class _Envelope:
    """A concave piecewise linear function: segment ``i`` begins at ``(x[i], y[i])``."""

    x: list[float]
    y: list[float]
    slope: list[float]
    intercept: list[float]


def _lower_envelope(lines: Sequence[tuple[float, float]]) -> _Envelope:
    """The least of some lines (slope, intercept) over ``[0, 1]``."""
    kept: list[tuple[float, float]] = []
    start: list[float] = []
    for slope, intercept in sorted(lines, key=lambda line: (-line[0], line[1])):
        if kept and kept[-1][0] == slope:
            continue  # the same slope, and higher
        while kept:
            crossing = (intercept - kept[-1][1]) / (kept[-1][0] - slope)
            if crossing > start[-1]:
                break
            kept.pop()
            start.pop()
        begins = crossing if kept else 0.0
        if begins < 1.0:
            kept.append((slope, intercept))
            start.append(begins)
    return _Envelope(
        start,
        [slope * x + intercept for (slope, intercept), x in zip(kept, start, strict=True)],
        [slope for slope, _ in kept],
        [intercept for _, intercept in kept],
    )


def nothing_learnt() -> TradeOffCurve:
    """Of a view that observes nothing: no test does better than guessing."""
    return TradeOffCurve((0.0,), (0.0,))


def view_curve(entries: Sequence[Entry], view: str) -> TradeOffCurve | None:
    """The curve of one market's users against one view, everything upstream included; None where there is no bound.

    The events are those that ``view_guarantee`` composes, so that the curve passes through the (ε, δ) stated.
    """
    observed = view_entries(entries, view)
    return drawn_curve([entry.event_for(view) for entry in observed], observed) if observed else nothing_learnt()


def drawn_curve(events: Sequence[DpEvent], entries: Sequence[Drawn]) -> TradeOffCurve | None:
    """The curve of events whose noise is discrete, drawn as the entries say; None if any part is not private.

    δ at each ε is that of ``privacy.accounting.profiles``; what the entries say of δ is added.
    """
    steps = gaussian_steps(ComposedDpEvent(list(events)))
    if steps is None:
        return None
    coordinates = sum(entry.coordinates for entry in entries)
    profile = drawn_profile(once_each(steps), coordinates, _EPSILONS, interval=COARSE)
    deltas = profile.deltas + sum(entry.extra_delta for entry in entries)
    return TradeOffCurve(tuple(profile.epsilons.tolist()), tuple(np.minimum(deltas, 1.0).tolist()))
