"""What a game shows of its canaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attacks.auditing.laws import Members, Values


@dataclass(frozen=True)
class Played:
    """Canaries of a game, ``(n,)`` each; coins decided which of them were in the data.

    Attributes:
        member: whether a canary was in.
        score: the adversary's, larger where it believes so; knows nothing of ``member``.
        weight: given ``member``, standard normal or less where the canary was in; larger ones speak for a canary that
            moved the release further than it may.
        total: given ``member``, standard normal: all steps together.
        squares: given ``member``, sums of ``steps`` squared standard normal values.
        steps: values that each canary showed.
        slack: how far each of those may be from the continuous law, in standard deviations.
    """

    member: Members
    score: Values
    weight: Values
    total: Values
    squares: Values
    steps: int = 1
    slack: float = 0.0

    def __len__(self) -> int:
        return len(self.member)

    @property
    def inside(self) -> Values:
        """Scores of canaries that were in."""
        return self.score[self.member]

    @property
    def outside(self) -> Values:
        """Scores of those that were not."""
        return self.score[~self.member]

    def first(self, count: int) -> Played:
        """The first canaries."""
        return Played(
            self.member[:count],
            self.score[:count],
            self.weight[:count],
            self.total[:count],
            self.squares[:count],
            self.steps,
            self.slack,
        )


def join_batches(parts: Sequence[Played]) -> Played:
    """Canaries of several batches of one game."""
    return Played(
        np.concatenate([part.member for part in parts]),
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.weight for part in parts]),
        np.concatenate([part.total for part in parts]),
        np.concatenate([part.squares for part in parts]),
        parts[0].steps,
        max(part.slack for part in parts),
    )


def together(parts: Sequence[Played], weights: Sequence[float]) -> Played:
    """The same canaries in several mechanisms, whose noise is independent; ``weights`` have squares that add up to 1.

    Raises:
        ValueError: other canaries.
    """
    count = min(map(len, parts))
    parts = [part.first(count) for part in parts]
    if any((part.member != parts[0].member).any() for part in parts):
        raise ValueError("mechanisms are put together where the same canaries were in")
    weight = np.sum([w * part.weight for w, part in zip(weights, parts, strict=True)], axis=0)
    total = np.sum([w * part.total for w, part in zip(weights, parts, strict=True)], axis=0)
    return Played(
        parts[0].member,
        np.sum([part.score for part in parts], axis=0),
        weight,
        total,
        np.sum([part.squares for part in parts], axis=0),
        sum(part.steps for part in parts),
        # of a total: Σ w sqrt(steps) slack, which is no more than sqrt(Σ steps) times the largest
        max(part.slack for part in parts),
    )
