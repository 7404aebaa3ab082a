"""A risk by the protocol of Giomi et al. (PETS 2023): an attack beyond the same attack on users left out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.metrics import Estimate, proportion


@dataclass(frozen=True)
class Tally:
    """Attacks made, and how many of them succeeded.

    Attributes:
        hits: that succeeded.
        tries: that were made.
        repeated: tries that say nothing of their own, because others are the same: an interval is of the rest.
    """

    hits: int
    tries: int
    repeated: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.hits + other.hits, self.tries + other.tries, self.repeated + other.repeated)

    @classmethod
    def of(cls, succeeded: NDArray[np.bool_], same: NDArray[np.int64] | None = None) -> Tally:
        """Of each guess ``(n,)``, whether it was right.

        Args:
            succeeded: ``(n,)``.
            same: a number ``(n,)`` that is equal where guesses are one and the same, which succeed or fail together.
                So many distinct ones of unequal weight are worth ``n² / Σ m²`` of equal weight (Kish, 1965).
        """
        n = len(succeeded)
        if same is None:
            return cls(int(succeeded.sum()), n)
        times = np.unique(same, return_counts=True)[1].astype(np.float64)
        return cls(int(succeeded.sum()), n, n - n**2 / float(np.square(times).sum()))

    @property
    def rate(self) -> Estimate:
        """Clopper and Pearson's interval; raises where nothing was tried.

        The protocol has Wilson's, which covers .95 on average: of ten users, nearly all of whom are found, .83.
        """
        return proportion(self.hits, self.tries, repeated=self.repeated)


@dataclass(frozen=True)
class Outcome:
    """One attack on one release.

    Attributes:
        attack: on users of the release.
        control: on users left out of it.
        prior: on the same users as ``attack``, by an adversary who has seen nothing that was published.
    """

    attack: Tally
    control: Tally
    prior: Tally

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.attack + other.attack, self.control + other.control, self.prior + other.prior)


@dataclass(frozen=True)
class Risk:
    """What a kind of published thing discloses in one way.

    Attributes:
        source: what was published.
        attack: its name.
        users: users attacked.
        success: share of attacks on users of the release that succeed, with its interval.
        control: the same of users left out.
        prior: what knowing nothing that was published reaches.
        risk: ``(success - control) / (1 - control)``: beyond what is true of people in general.
        over_prior: ``(success - prior) / (1 - prior)``: beyond what was known beforehand.
    """

    source: str
    attack: str
    users: int
    success: Estimate
    control: Estimate
    prior: Estimate
    risk: Estimate
    over_prior: Estimate

    @classmethod
    def of(cls, source: str, attack: str, outcomes: Iterable[Outcome]) -> Risk:
        """From attacks on several releases, whose users are not the same."""
        first, *others = outcomes
        total = sum(others, first)
        return cls(
            source,
            attack,
            total.attack.tries,
            total.attack.rate,
            total.control.rate,
            total.prior.rate,
            beyond(total.attack, total.control),
            beyond(total.attack, total.prior),
        )


def beyond(attack: Tally, control: Tally) -> Estimate:
    """``(attack - control) / (1 - control)``, between -1 and 1, with a 95 % interval.

    One less the risk is a ratio of two proportions of failures. Its interval is recovered from theirs, which are exact
    (MOVER-R; Donner, Zou, "Closed-form confidence intervals for functions of the normal mean and standard deviation",
    Stat. Methods Med. Res. 2012, equation 10), which needs no variance of a proportion of 0 or 1.
    """
    fails, low, high = _failures(attack)
    others, others_low, others_high = _failures(control)
    if others == 0.0:  # everybody left out is found: there is nothing to be beyond
        return Estimate(0.0, -1.0, 1.0)
    product = fails * others

    def root(own: float, other: float) -> float:
        """Of the discriminant that both limits of the ratio share."""
        return math.sqrt(max(product**2 - own * other * (2.0 * fails - own) * (2.0 * others - other), 0.0))

    # as quotients whose denominators vanish for no interval of a proportion: few failures among those left out make
    # their interval reach beyond twice their share, where the equation as it is printed divides by zero, and by less
    reach = product + root(low, others_high)
    least = low * (2.0 * fails - low) / reach if reach > 0.0 else 0.0
    most = (product + root(high, others_low)) / (others_low * (2.0 * others - others_low))
    value = 1.0 - fails / others
    return Estimate(*(float(np.clip(number, -1.0, 1.0)) for number in (value, 1.0 - most, 1.0 - least)))


def _failures(tally: Tally) -> tuple[float, float, float]:
    """Share of attacks that fail, and its interval."""
    rate = tally.rate
    return 1.0 - rate.value, 1.0 - rate.high, 1.0 - rate.low
