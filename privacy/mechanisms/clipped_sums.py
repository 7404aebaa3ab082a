"""Exact sums of clipped gradients: every example's is cut to integers whose norm is checked exactly.

Sums of integers are exact whatever the order, so one example moves a sum by its own integers and by nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from privacy.arrays import IntArray
from privacy.mechanisms.clipping import Clipping
from privacy.mechanisms.grid import SHRINK
from privacy.mechanisms.per_example import Batch, PerExampleGradients, gradient_rows

AUTOMATIC_STABILITY = 0.01  # of the clipping norm
EXACT = 2.0**53  # integers below it, and sums of such, are exact in double precision
_CACHED = 2**17  # entries of gradients that are cut at a time: 1 MB


@dataclass(frozen=True)
class Clip:
    """How one example's gradient becomes integers.

    Attributes:
        norm: largest L2 norm that it keeps.
        clipping: ``flat`` or ``automatic``; see ``DPSGD``.
        step: grid unit of what this party noises alone.
        shared_step: grid unit of what other parties' noise completes.
        parts: how much more a local square weighs than a shared one.
        bound: largest ``parts · Σ local² + Σ shared²`` of one example's integers; below ``EXACT``.
    """

    norm: float
    clipping: Clipping
    step: float
    shared_step: float
    parts: int
    bound: int

    def factors(self, norms: Tensor) -> Tensor:
        """What gradients of these norms ``(n,)`` are multiplied with before they are cut."""
        if self.clipping == "automatic":
            return self.norm / (norms + AUTOMATIC_STABILITY * self.norm)
        return self.norm / norms.clamp(min=self.norm)

    def per_unit(self, *, shared: bool) -> float:
        """Grid units of a gradient of 1, a little less: what is cut towards zero then meets the bound."""
        return SHRINK / (self.shared_step if shared else self.step)

    def holds(self, squares: Tensor) -> Tensor:
        """Which examples ``(n,)`` meet the bound, by their weighted sums of squared integers.

        A sum below 2^53 is exact, and one above is not rounded below it. What is not a number compares false.
        """
        return squares <= self.bound


@dataclass(frozen=True)
class ParameterSplit:
    """Parameters by who noises them: in this order their entries stand in a sum.

    Attributes:
        local: this party alone.
        shared: other parties complete the noise.
    """

    local: tuple[nn.Parameter, ...]
    shared: tuple[nn.Parameter, ...] = ()

    @classmethod
    def of(cls, parameters: Sequence[nn.Parameter], shared: Sequence[nn.Parameter]) -> ParameterSplit:
        """Parameters in their order, those that are handed out last."""
        handed = set(map(id, shared))
        return cls(tuple(parameter for parameter in parameters if id(parameter) not in handed), tuple(shared))

    def beside(self, spare: nn.Parameter) -> ParameterSplit:
        """The same with spare coordinates behind the local ones, as which they are noised."""
        return ParameterSplit((*self.local, spare), self.shared)

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """All of them, in the order of a sum."""
        return self.local + self.shared

    @property
    def n_local(self) -> int:
        """Entries of the local ones."""
        return sum(parameter.numel() for parameter in self.local)

    @property
    def size(self) -> int:
        """Entries of all."""
        return sum(parameter.numel() for parameter in self.parameters)


class ClippedSums(Protocol):
    """Adds up a block's clipped integers; parameters in the order local, shared.

    Attributes:
        largest_block: examples that are held in memory at a time, at most.
    """

    @property
    def largest_block(self) -> int:
        """Examples that are held in memory at a time, at most."""
        ...

    def rows(self, block: Batch) -> Tensor:
        """All that an example's integers follow from, ``(size, …)``: which slots of a block treat examples alike."""
        ...

    def add(self, block: Batch, slots: Tensor, total: IntArray) -> tuple[float, int]:
        """Add the integers of the examples in ``slots`` to ``total``; their loss, and how many exceeded the norm."""
        ...


class DenseSums:
    """For any model: gradients of single examples are written out."""

    largest_block = 256

    def __init__(self, gradients: PerExampleGradients, clip: Clip, split: ParameterSplit, block: int) -> None:
        self._gradients, self._clip, self._block = gradients, clip, block
        self._parameters, self._n_local = split.parameters, split.n_local
        size = split.size
        # as many gradients at a time as stay in the processor's cache; of public numbers alone
        self._units = torch.empty(min(block, max(1, _CACHED // size)), size, dtype=torch.float64)

    def rows(self, block: Batch) -> Tensor:
        """The gradients themselves."""
        return gradient_rows(self._gradients, block)

    def add(self, block: Batch, slots: Tensor, total: IntArray) -> tuple[float, int]:
        """See ``ClippedSums.add``; a few slots at a time."""
        self._clear()
        losses = self._gradients(block)
        filled = torch.zeros(self._block, dtype=torch.bool)
        filled[slots] = True
        over = 0
        for first in range(0, int(slots[-1]) + 1, len(self._units)):
            over += self._cut(first, filled)
            # integers of at most 2^26 in at most 2^20 rows: their sum is exact in double precision
            total += self._units.sum(dim=0).numpy().astype(np.int64)
        self._clear()
        return float(losses[slots].sum()), over

    def _cut(self, first: int, filled: Tensor) -> int:
        """Clip gradients of the slots from ``first`` on and cut them to integers; returns how many exceeded the norm.

        Everything here is a function of one slot's own gradient. Slots that are not ``filled (block,)`` become zeros.
        """
        units, clip = self._units, self._clip
        self._load(first)
        norms = torch.linalg.vector_norm(units, dim=1)
        factor = clip.factors(norms)
        taken = self._taken(first, filled)
        factor[~taken] = 0.0
        local, shared = units[:, : self._n_local], units[:, self._n_local :]
        local.mul_((factor * clip.per_unit(shared=False))[:, None])
        shared.mul_((factor * clip.per_unit(shared=True))[:, None])
        units.trunc_()
        squares = clip.parts * _squared_norms(local) + _squared_norms(shared)
        # rounding is far below a part in 10^9; what it could hide is looked at exactly
        if not bool((squares <= clip.bound * (1.0 - 1e-9)).all()):
            self._drop_what_exceeds()
        return int((norms[taken] > clip.norm).sum())

    def _taken(self, first: int, filled: Tensor) -> Tensor:
        """Which rows of ``_units`` hold examples, when its first one is slot ``first`` of a block."""
        taken = torch.zeros(len(self._units), dtype=torch.bool)
        taken[: self._block - first] = filled[first : first + len(taken)]
        return taken

    def _load(self, first: int) -> None:
        """Gradients of the slots from ``first`` on, in double precision."""
        used = min(len(self._units), self._block - first)
        self._units[used:] = 0.0
        start = 0
        for parameter in self._parameters:
            gradient: Tensor = parameter.grad_sample  # type: ignore[attr-defined]
            self._units[:used, start : start + parameter.numel()] = gradient[first : first + used].flatten(1)
            start += parameter.numel()

    def _drop_what_exceeds(self) -> None:
        """Zero the slots whose integers are longer than the bound: each by its own gradient alone."""
        values = self._units.numpy()
        local, shared = values[:, : self._n_local], values[:, self._n_local :]
        squares = self._clip.parts * np.einsum("ij,ij->i", local, local) + np.einsum("ij,ij->i", shared, shared)
        values[~self._clip.holds(torch.from_numpy(squares)).numpy()] = 0.0

    def _clear(self) -> None:
        """Forget gradients of the block before: those of single examples, and their raw sums."""
        for parameter in self._parameters:
            parameter.grad = None
            parameter.grad_sample = None  # type: ignore[attr-defined]


def _squared_norms(units: Tensor) -> Tensor:
    return torch.as_tensor(torch.linalg.vector_norm(units, dim=1).square())
