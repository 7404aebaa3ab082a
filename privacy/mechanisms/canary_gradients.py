"""Examples whose gradients are chosen: canaries of DP-SGD, by themselves or among users.

Among users a canary is one more example of the population: it is sampled, clipped, cut and added up by the lines that
do so for users, in blocks that users are in. What sets it apart is its gradient alone: none in what users reach, and a
steep one in a spare coordinate, where a user's is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from privacy.mechanisms.clipped_sums import Clip
from privacy.mechanisms.factored_sums import FactoredGradients, LayerGradient
from privacy.mechanisms.per_example import Batch, PerExampleGradients, padded
from privacy.mechanisms.spare import STEEP, Spare


def steep(clipping_norm: float) -> float:
    """Length of a canary's gradient, in single precision: so its square is exact in double precision."""
    return float(np.float32(STEEP * clipping_norm))


def clipped_canary(clip: Clip) -> int:
    """What a canary's gradient adds to its coordinate, in grid units: 0 where it would break the bound."""
    length = torch.tensor([steep(clip.norm)], dtype=torch.float64)
    units = (length * (clip.factors(length) * clip.per_unit(shared=False))).trunc()
    return int(units) if bool(clip.holds(clip.parts * units.square())) else 0


class CanaryGradients:
    """Example ``i`` has a steep gradient in coordinate ``i`` alone, whose clipped integers are as large as any may be.

    Coordinates get independent noise and examples are sampled independently, so one training run plays one game for
    each coordinate. ``sign`` turns round from one round to the next in games: noise that repeats itself then cancels.
    """

    def __init__(self, canaries: int, clipping_norm: float) -> None:
        self.parameters: Sequence[nn.Parameter] = [nn.Parameter(torch.zeros(canaries))]
        self.sign = 1.0
        self._steep = steep(clipping_norm)

    def __call__(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Losses of zero; the gradient of each example is that of its canary."""
        index = batch[0]
        gradients = torch.zeros(len(index), len(self.parameters[0]))
        gradients[torch.arange(len(index)), index] = self.sign * self._steep
        self.parameters[0].grad_sample = gradients  # type: ignore[attr-defined]
        return torch.zeros(len(index))


@dataclass(frozen=True)
class Population:
    """Users, and behind them canaries that are in.

    Attributes:
        users: their examples, ``(n_users, …)`` each.
        coordinates: the spare coordinate of each canary, ``(n_canaries,)``.
    """

    users: Batch
    coordinates: Tensor

    @classmethod
    def of(cls, users: Batch, spare: Spare) -> Population:
        """Users, and the canaries of spare coordinates."""
        return cls(users, torch.from_numpy(spare.present).to(users[0].device))

    @property
    def n_users(self) -> int:
        """Who is no canary."""
        return len(self.users[0])

    @property
    def probe(self) -> Batch:
        """Examples whose shapes those of ``block`` have."""
        return (*self.users, self.coordinates)

    def block(self, chosen: Tensor, size: int, slots: Tensor) -> Batch:
        """Members ``chosen (n,)``, ascending, in the first of some slots of a block of ``size``.

        The last part marks canaries: ``(size,)``, their coordinates, counted from 1, and 0 for users and empty slots.
        """
        of_users = int((chosen < self.n_users).sum())
        marks = self.coordinates.new_zeros(size)
        marks[slots[of_users : len(chosen)]] = self.coordinates[chosen[of_users:] - self.n_users] + 1
        return (*padded(self.users, chosen[:of_users], size, slots), marks)


class MarkedGradients:
    """Gradients of blocks of a population: users' by the model, canaries' in one more parameter.

    Args:
        gradients: of users.
        count: spare coordinates.
        clipping_norm: of the stage.

    Attributes:
        spare: the parameter that holds them; no optimizer knows of it.
    """

    def __init__(self, gradients: PerExampleGradients, count: int, clipping_norm: float) -> None:
        self._gradients, self._steep = gradients, steep(clipping_norm)
        self.spare = nn.Parameter(torch.zeros(count))
        self.parameters: Sequence[nn.Parameter] = [*gradients.parameters, self.spare]

    def __call__(self, batch: Batch) -> Tensor:
        """See ``PerExampleGradients``; a canary has no loss."""
        *users, marks = batch
        losses, canaries = self._gradients(tuple(users)), marks.nonzero().flatten()
        if len(canaries):
            for parameter in self._gradients.parameters:
                gradient: Tensor = parameter.grad_sample  # type: ignore[attr-defined]
                # never in place: rows of what is the same for all examples may be one row in memory
                of_canaries = (marks > 0).view(-1, *[1] * (gradient.dim() - 1))
                parameter.grad_sample = gradient.masked_fill(of_canaries, 0.0)  # type: ignore[attr-defined]
        found = torch.zeros(len(marks), len(self.spare))
        found[canaries, marks[canaries] - 1] = self._steep
        self.spare.grad_sample = found  # type: ignore[attr-defined]
        return losses.detach().masked_fill(marks > 0, 0.0)


class SpareGradient(LayerGradient):
    """Gradients in spare coordinates: of each example in one at most.

    Args:
        spare: the coordinates.
        marks: as of ``Population.block``, ``(n,)``.
        length: of a canary's gradient.
    """

    def __init__(self, spare: nn.Parameter, marks: Tensor, length: float) -> None:
        self.parameters: Sequence[nn.Parameter] = [spare]
        self.left = torch.where(marks > 0, length, 0.0).double()[:, None]
        self.unit = self.lengths = self.left.new_ones(len(marks))
        self._marks = marks

    def rows(self) -> Tensor:
        """The gradients, ``(n, 1)``."""
        return self.left

    def total(self, kept: Tensor) -> Sequence[Tensor]:
        """The one sum, ``(count,)``."""
        size, values = len(self.parameters[0]), torch.where(kept, self.left[:, 0], 0.0)
        return [values.new_zeros(size + 1).index_add_(0, self._marks, values)[1:]]  # a mark of 0 is nobody's


class MarkedFactors:
    """The same where gradients are never written out.

    Args:
        gradients: of users.
        count: spare coordinates.
        clipping_norm: of the stage.

    Attributes:
        spare: the parameter that holds them; no optimizer knows of it.
    """

    def __init__(self, gradients: FactoredGradients, count: int, clipping_norm: float) -> None:
        self._gradients, self._steep = gradients, steep(clipping_norm)
        self.spare = nn.Parameter(torch.zeros(count))
        self.parameters: Sequence[nn.Parameter] = [*gradients.parameters, self.spare]

    def __call__(self, batch: Batch) -> tuple[Tensor, list[LayerGradient]]:
        """See ``FactoredGradients``; a canary has no loss."""
        *users, marks = batch
        losses, layers = self._gradients(tuple(users))
        for layer in layers:
            layer.left = layer.left.masked_fill((marks > 0)[:, None], 0.0)
        losses = losses.masked_fill(marks > 0, 0.0)
        return losses, [*layers, SpareGradient(self.spare, marks, self._steep)]
