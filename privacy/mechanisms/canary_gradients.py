"""Examples whose gradients are chosen: canaries of DP-SGD."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from privacy.arrays import IntArray
from privacy.mechanisms.clipped_sums import Clip, DenseSums, ParameterSplit
from privacy.mechanisms.per_example import padded
from privacy.mechanisms.spare import STEEP


class CanaryGradients:
    """Example ``i`` has a steep gradient in coordinate ``i`` alone, whose clipped integers are as large as any may be.

    Coordinates get independent noise and examples are sampled independently, so one training run plays one game for
    each coordinate. ``sign`` turns round from one round to the next in games: noise that repeats itself then cancels.
    """

    def __init__(self, canaries: int, clipping_norm: float) -> None:
        self.parameters: Sequence[nn.Parameter] = [nn.Parameter(torch.zeros(canaries))]
        self.sign = 1.0
        self._steep = STEEP * clipping_norm

    def __call__(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Losses of zero; the gradient of each example is that of its canary."""
        index = batch[0]
        gradients = torch.zeros(len(index), len(self.parameters[0]))
        gradients[torch.arange(len(index)), index] = self.sign * self._steep
        self.parameters[0].grad_sample = gradients  # type: ignore[attr-defined]
        return torch.zeros(len(index))


class CanarySums:
    """Sums of canaries' clipped integers, by the code that clips and adds up gradients of users.

    Args:
        clip: of the stage.
        count: spare coordinates.
    """

    def __init__(self, clip: Clip, count: int) -> None:
        gradients = CanaryGradients(count, clip.norm)
        self._count, self._block = count, max(1, count)
        self._sums = DenseSums(gradients, clip, ParameterSplit.of(gradients.parameters, []), self._block)
        self._examples = (torch.arange(count),)

    def of(self, sampled: IntArray) -> IntArray:
        """The sum ``(count,)`` over canaries by their coordinates."""
        total = np.zeros(self._count, dtype=np.int64)
        for start in range(0, len(sampled), self._block):
            chosen = torch.from_numpy(sampled[start : start + self._block])
            slots = torch.arange(len(chosen))
            self._sums.add(padded(self._examples, chosen, self._block, slots), slots, total)
        return total
