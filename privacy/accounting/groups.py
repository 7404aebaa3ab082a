"""ε of a person who has rows in several markets, from what the runs on each market's data spend.

Two kinds of noise. Most is *a market's own*: who is in k markets moves k noises once each, which is plain composition.
A sum over markets has *one noise for all of them* (``OneNoiseDpEvent``): who is in k markets moves it up to k times as
far. Which noise is of which kind, and for how many markets, is a property of each event, in ledgers and in accounts.

**One step of one noise.** The noise is ``N(0, σ²I)``. Each market draws a coin of its own for the person, which comes
up with probability q, and contributes ``b_j w_j``, where ``w_j`` has norm 1 at most. With the person the output is
``Σ_j b_j w_j + N(0, σ²I)``, without it is ``N(0, σ²I)``. Claim: this pair is dominated, in both directions, by
``N(B, σ²)`` beside ``N(0, σ²)`` with B binomial, of k coins: a mixture of Gaussians.

Proof. Let z be drawn without the person. The ratio of densities is ``R = Σ_b p_b X_b`` over the 2^k outcomes b of the
coins, with ``X_b = exp(<w_b, z>/σ² - ‖w_b‖²/2σ²)``: log-normal, of mean 1, and ``‖w_b‖ <= |b|``. The hockey-stick
divergences of both directions, ``E(R - α)_+`` and ``E(1 - αR)_+``, are means of convex functions of R. A log-normal of
mean 1 grows in convex order with its variance, so with ``‖w_b‖``; and a sum of given marginals is largest in convex
order where all are increasing functions of one variable (Kaas, Dhaene, Goovaerts, "Upper and lower bounds for sums of
random variables", 2000). Both are largest at once for ``X_b = exp(|b| t/σ - |b|²/2σ²)`` with a standard normal t: the
ratio of the mixture. Steps compose adaptively, as dominating pairs do (Zhu, Dong, Wang, AISTATS 2022). For q = 1 the
mixture is one Gaussian, of noise multiplier σ/k.

A market adds a part of what it contributes to a sum, and the rest, such as its local codebook, to noise of its own, by
the same coin: ``w_j = (s_j, l_j)``, ``‖w_j‖ <= 1``, where the s_j add up and the l_j do not. For m coins that came up,
``‖Σ s_j‖² + Σ ‖l_j‖² <= (Σ ‖s_j‖)² + Σ (1 - ‖s_j‖²) = m + Σ_{i≠j} ‖s_i‖ ‖s_j‖ <= m²``: again ``‖w_b‖ <= |b|``. Noise
multipliers of markets may differ; the smallest is taken for all.

Whatever is not known gives no number: runs of which it is not said how many markets they were of, or of which what some
market spent is not at hand, or a market's sum that was drawn twice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import zip_longest

from dp_accounting.dp_event import ComposedDpEvent, DpEvent

from privacy.accounting.accountants import group_pld_epsilon, once_each
from privacy.accounting.events import OneNoiseDpEvent, gaussian_steps, parts
from privacy.accounting.filters import RunCost, filter_epsilon, gaussian_cost
from privacy.accounting.guarantees import epsilon_as_drawn
from privacy.accounting.losses import COARSE, ROUGH, SeveralTimes
from privacy.accounting.spendings import Spending

GaussianStep = tuple[float, float]  # noise multiplier, sampling rate


class NotKnownError(ValueError):
    """What a person in several markets is exposed to does not follow from what is at hand; says why."""


@dataclass(frozen=True)
class Joint:
    """What one run, or one course of it, spends on a person who has rows in several markets.

    Attributes:
        own: events of noise that is a market's own.
        shared: how often each step of one noise was run, by the number of times that the person may move it.
        spendings: of the markets.
    """

    own: tuple[DpEvent, ...]
    shared: Mapping[tuple[float, float, int], int]
    spendings: tuple[Spending, ...]

    @cached_property
    def steps(self) -> SeveralTimes | None:
        """How often each (noise multiplier, sampling rate, times) is run; None if any part is not private."""
        own = gaussian_steps(ComposedDpEvent(list(self.own)))
        if own is None:
            return None
        steps = Counter(dict(once_each(own)))
        steps.update(self.shared)
        return steps

    def cost(self, delta: float) -> RunCost:
        """What it adds to other runs, of which ε is asked at ``delta``."""
        failures = sum(one.extra_delta for one in self.spendings)
        if self.steps is None:
            return RunCost(math.inf, failures)
        coordinates = sum(one.coordinates for one in self.spendings)
        return RunCost(gaussian_cost(self.steps, coordinates, delta, interval=self._interval(delta)), failures)

    def epsilon(self, delta: float) -> float:
        """ε at ``delta`` of it alone, an upper bound; ``inf`` if any part is not private."""
        if self.steps is None:
            return math.inf
        epsilon_at = partial(group_pld_epsilon, self.steps, interval=self._interval(delta))
        return epsilon_as_drawn(epsilon_at, self.spendings, delta)

    def _interval(self, delta: float) -> float:
        """Grid of its losses: mixtures take a hundred times as long, and lose as little on a coarser one."""
        interval = ROUGH if any(rate < 1.0 for _, rate, _ in self.shared) else COARSE
        rough = group_pld_epsilon(self.steps or {}, delta, interval=10.0 * ROUGH)
        return interval * (max(1.0, rough / 10.0) if math.isfinite(rough) else 1.0)


def joint_epsilon(runs: Sequence[Joint], delta: float) -> float:
    """ε at ``delta`` of runs on a person in several markets, however each was chosen by what others showed."""
    spent = [run for run in runs if run.steps != {}]
    if len(spent) > 1:
        return filter_epsilon([run.cost(delta) for run in runs], delta)
    return spent[0].epsilon(delta) if spent else 0.0


def joint_spendings(spendings: Mapping[str, Sequence[Spending]], view: str) -> list[Joint]:
    """What a view observes of a person who has rows in all the markets, by run on their data.

    Args:
        spendings: by market, of all runs on its data.
        view: name of the view.

    Raises:
        NotKnownError: it is not all there.
    """
    runs: dict[str, dict[str, list[Spending]]] = {}
    for market, found in spendings.items():
        for one in found:
            runs.setdefault(one.run, {}).setdefault(market, []).append(one)
    return [joint for run, by_market in runs.items() for joint in _courses(run, by_market, view)]


def _courses(run: str, by_market: Mapping[str, Sequence[Spending]], view: str) -> Iterator[Joint]:
    """What each course of a run spends: markets whose state was put back have several."""
    _require_whole(run, by_market)
    for course in zip_longest(*by_market.values()):
        spendings = [one for one in course if one is not None]
        events = [list(parts(one.observed(view))) for one in spendings]
        own = [part for found in events for part in found if not isinstance(part, OneNoiseDpEvent)]
        sums = [[part for part in found if isinstance(part, OneNoiseDpEvent)] for found in events]
        shared = _of_sums(run, sums, by_market) if any(sums) else {}
        yield Joint(tuple(own), shared, tuple(spendings))


def _require_whole(run: str, by_market: Mapping[str, Sequence[Spending]]) -> None:
    sizes = [one.markets for found in by_market.values() for one in found if one.markets is not None]
    if len(sizes) < sum(map(len, by_market.values())):
        raise NotKnownError(f"run {run[:8]} was entered by an earlier version, which does not say of how many markets")
    if set(sizes) != {len(by_market)}:
        of = ", ".join(str(size) for size in sorted(set(sizes)))
        raise NotKnownError(f"run {run[:8]} is of {of} markets, and what it spent is known of {len(by_market)}")


def _of_sums(
    run: str, sums: Sequence[Sequence[OneNoiseDpEvent]], by_market: Mapping[str, Sequence[Spending]]
) -> Counter[tuple[float, float, int]]:
    """Steps of a run's sums, which every market states alike but for the noise multiplier."""
    k = len(sums)
    if any(len(found) > 1 for found in by_market.values()):
        raise NotKnownError(f"run {run[:8]} went on from an older copy, and drew some market's sums twice")
    if len({len(found) for found in sums}) > 1 or any(part.markets != k for found in sums for part in found):
        raise NotKnownError(f"run {run[:8]}: its markets do not state the same sums")
    found: Counter[tuple[float, float, int]] = Counter()
    for alike in zip(*sums, strict=True):
        steps = [gaussian_steps(part.event) for part in alike]
        single = [next(iter(one.items())) for one in steps if one is not None and len(one) == 1]
        if len(single) != k or len({(rate, count) for (_, rate), count in single}) != 1:
            raise NotKnownError(f"run {run[:8]}: its markets do not state the same sums")
        (_, rate), count = single[0]
        found[min(noise for (noise, _), _ in single), rate, k] += count
    return found
