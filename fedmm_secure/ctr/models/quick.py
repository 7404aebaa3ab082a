"""Parts of a network that train in less time than PyTorch's, with the same weights, names and gradients.

They save passes over memory, which a small network's step is made of. For one network at a time: ``torch.func``, which
maps over many networks or examples, takes PyTorch's own.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedmm_secure.ctr.models.interactions import FieldPairs, pair_sums


def quicken(network: nn.Module, bits: np.random.Generator) -> None:
    """Put quick parts in place of a network's tables, pairs of fields, and each ReLU with the dropout after it."""
    for module in list(network.modules()):
        for name, part in module.named_children():
            if isinstance(part, nn.Embedding):
                rows, dim = part.weight.shape
                setattr(module, name, QuickEmbedding(rows, dim, _weight=part.weight))
            if isinstance(part, FieldPairs):
                setattr(module, name, QuickFieldPairs())
        if not isinstance(module, nn.Sequential):
            continue
        for place, (one, other) in enumerate(pairwise(module)):
            if isinstance(one, nn.ReLU) and isinstance(other, nn.Dropout):
                module[place], module[place + 1] = nn.Identity(), RectifiedDropout(other.p, bits.bit_generator)


class QuickEmbedding(nn.Embedding):
    """A table whose gradients are added up in the order of ``nn.Embedding``, without a kernel's start for each row."""

    def forward(self, index: Tensor) -> Tensor:
        """Rows ``(..., dim)`` at an index ``(...)``."""
        table = self.weight.squeeze(1)  # single numbers as a vector, which has a kernel of its own
        return table.index_select(0, index.flatten()).view(*index.shape, self.embedding_dim)


class QuickFieldPairs(FieldPairs):
    """``FieldPairs``, with the gradients of both results in one go."""

    def forward(self, fields: Tensor) -> tuple[Tensor, Tensor]:
        """Fields ``(n, n_fields, dim)`` to sums ``(n,)`` and fields ``(n, n_fields * dim)``."""
        sums, flat = _Pairs.apply(fields)  # type: ignore[no-untyped-call]
        return sums, flat


class _Pairs(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, fields: Tensor) -> tuple[Tensor, Tensor]:
        total = fields.sum(1)
        context.save_for_backward(fields, total)
        return pair_sums(fields, total), fields.flatten(1)

    @staticmethod
    def backward(context: Any, of_sums: Tensor, of_flat: Tensor) -> Tensor:
        fields, total = context.saved_tensors
        weight = of_sums[:, None, None]
        # in the order in which PyTorch adds them up for FieldPairs: to the last bit the same
        return torch.as_tensor((of_flat.view_as(fields) - weight * fields).add_(weight * total[:, None]))


class RectifiedDropout(nn.Module):
    """ReLU, then dropout, in the place of the inputs.

    Which units are left out is told by 16 bits for each, of a generator that is many times as fast as PyTorch's: there
    the draws took a quarter of a training step. The rate is rounded to a multiple of 2^-16. They are drawn on the
    processor wherever the network trains: the same units are left out on every device.

    Args:
        rate: of the units that are left out in training.
        bits: generator of them.
    """

    def __init__(self, rate: float, bits: np.random.BitGenerator) -> None:
        super().__init__()
        self._out, self._bits = min(round(rate * 2**16), 2**16 - 1), bits

    def forward(self, inputs: Tensor) -> Tensor:
        """Of the same shape; the inputs are overwritten."""
        if not self.training or not self._out:
            return inputs.relu_()
        drawn = self._bits.random_raw(-(-inputs.numel() // 4)).view(np.int16)[: inputs.numel()]
        scale = 2**16 / (2**16 - self._out)
        factors = np.multiply(drawn >= self._out - 2**15, np.float32(scale))
        kept = torch.from_numpy(factors).view(inputs.shape)
        return torch.as_tensor(_Kept.apply(inputs, kept, scale))  # type: ignore[no-untyped-call]


class _Kept(torch.autograd.Function):
    """Positive units times their factors, 0 or ``scale``; for the gradient, what is above 0 then took part."""

    @staticmethod
    def forward(context: Any, inputs: Tensor, factors: Tensor, scale: float) -> Tensor:
        found = inputs.relu_().mul_(factors.to(inputs.device))
        context.mark_dirty(inputs)
        context.save_for_backward(found)
        context.scale = scale
        return found

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (found,) = context.saved_tensors
        return torch.ops.aten.threshold_backward(gradient, found, 0.0).mul_(context.scale), None, None
