"""Exact sums of clipped gradients that are never written out.

One example's gradient of a linear layer is the outer product ``δ xᵀ`` of what comes back and what went in (Goodfellow,
"Efficient per-example gradient computations", 2015). Here the *factors* are cut to integers, not the product: ``x``
to a power of two that follows from ``x`` alone, the clipped ``δ`` to what is left of the grid unit. Then

- the example's gradient is an integer matrix ``δ̂ x̂ᵀ``, of norm ``‖δ̂‖ ‖x̂‖`` exactly, without computing it;
- the sum over a block is one matrix product ``Δ̂ᵀ X̂`` of integers, exact in double precision below 2^53, in whatever
  order a device adds up.

So clipping costs two ordinary passes, as ghost clipping does (Li, Tramèr, Liang, Hashimoto, ICLR 2022), and sensitivity
stays that of integers: one example moves a sum by its own matrix and by nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from privacy.arrays import IntArray
from privacy.mechanisms.clipped_sums import Clip, ParameterSplit
from privacy.mechanisms.per_example import Batch, BatchLoss

RIGHT_BITS = 8  # of a layer's inputs beside the largest of one example; the grid unit leaves twice as many for the rest
_MOST_EXPONENT = 64  # inputs beyond 2^64 count as absent


class LayerGradient(ABC):
    """Gradients of a block's examples in one layer; every number is a function of one example alone.

    An example's gradient is ``left`` times another factor, of which ``unit`` and ``lengths`` are all that clipping
    needs. What clips and cuts is written once, here, for all kinds of layers.

    Attributes:
        parameters: the layer's.
        left: the factor that is clipped and cut, ``(n, m)``.
        unit: of the other factor, whose entries are whole numbers of it, ``(n,)``.
        lengths: squared norms of those whole numbers, ``(n,)``.
    """

    parameters: Sequence[nn.Parameter]
    left: Tensor
    unit: Tensor
    lengths: Tensor

    @abstractmethod
    def rows(self) -> Tensor:
        """All that the gradients follow from, ``(n, …)``."""

    @abstractmethod
    def total(self, kept: Tensor) -> Sequence[Tensor]:
        """Sums of the integers over the examples that are ``kept (n,)``, one for each parameter."""

    def squares(self) -> Tensor:
        """Squared norms ``(n,)``: of an outer product, the product of its factors'."""
        return self.left.square().sum(dim=1) * (self.lengths * self.unit.square())

    def cut(self, per_unit: Tensor) -> Tensor:
        """Multiply by ``(n,)`` and cut towards zero, so that no gradient gets longer; squared norms of the integers.

        One factor is cut, the other is a whole number of units already.
        """
        self.left = (self.left * (per_unit * self.unit)[:, None]).trunc()
        return self.left.square().sum(dim=1) * self.lengths


Rule = Callable[[Any, Tensor, Tensor], LayerGradient]


class LinearGradient(LayerGradient):
    """``nn.Linear``: inputs ``(n, d)``, gradients of its outputs ``(n, m)``."""

    def __init__(self, layer: nn.Linear, inputs: Tensor, outgoing: Tensor) -> None:
        self.parameters: Sequence[nn.Parameter] = list(layer.parameters(recurse=False))  # weight, then bias
        right = inputs.double()
        if layer.bias is not None:
            right = torch.cat([right, right.new_ones(len(right), 1)], dim=1)
        largest = right.abs().amax(dim=1)
        usable = largest < 2.0**_MOST_EXPONENT  # false for what is not a number
        # powers of two: dividing by one is exact
        self.unit = torch.exp2(torch.frexp(torch.where(usable, largest, 1.0)).exponent.double() - RIGHT_BITS)
        self._right = torch.where(usable[:, None], right / self.unit[:, None], 0.0).round()
        self.lengths = torch.where(usable, self._right.square().sum(dim=1), torch.inf)
        self.left = outgoing.double()

    def rows(self) -> Tensor:
        """Inputs, gradients of the outputs, and squared norms, ``(n, d + m + 1)``."""
        return torch.cat([self._right * self.unit[:, None], self.left, self.squares()[:, None]], dim=1)

    def total(self, kept: Tensor) -> Sequence[Tensor]:
        """Sums for weight and bias, each as one product of matrices."""
        # each product is at most an example's norm, below 2^27, and there are fewer than 2^26 examples
        whole = torch.where(kept[:, None], self.left, 0.0).T @ self._right
        weight = self.parameters[0]
        return [whole[:, : weight.shape[1]], *(whole[:, -1] for _ in self.parameters[1:])]


class FactoredGradients:
    """Reads what goes into a model's layers and what comes back; ordinary steps are left alone.

    Args:
        model: each of its layers with parameters is called once in a forward pass.
        loss: maps (model, examples ``(n, …)``) to losses ``(n,)``; that of one example depends on that example alone.
        rules: by class of layer.

    Raises:
        ValueError: a parameter belongs to a layer without a rule.
    """

    def __init__(self, model: nn.Module, loss: BatchLoss, rules: Mapping[type[nn.Module], Rule]) -> None:
        self._model, self._loss, self._rules = model, loss, rules
        self.parameters: Sequence[nn.Parameter] = list(model.parameters())
        self._layers = [layer for layer in model.modules() if next(layer.parameters(recurse=False), None) is not None]
        for layer in self._layers:
            if type(layer) not in rules:
                raise ValueError(f"no rule for gradients of single examples in a layer of {type(layer).__name__}")

    def __call__(self, batch: Batch) -> tuple[Tensor, list[LayerGradient]]:
        """Losses ``(n,)``, and the gradients in each layer."""
        seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

        def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if layer in seen:
                raise ValueError(f"a layer of {type(layer).__name__} was called twice for one example")
            seen[layer] = inputs[0].detach(), output

        hooks = [layer.register_forward_hook(note) for layer in self._layers]
        try:
            losses = self._loss(self._model, batch[0])
        finally:
            for hook in hooks:
                hook.remove()
        outgoing = torch.autograd.grad(losses.sum(), [seen[layer][1] for layer in self._layers])
        found = [
            self._rules[type(layer)](layer, seen[layer][0], back)
            for layer, back in zip(self._layers, outgoing, strict=True)
        ]
        return losses.detach(), found


class LayerGradients(Protocol):
    """Losses ``(n,)`` of a block, and its examples' gradients in each layer."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """Those that the gradients are of, in order."""
        ...

    def __call__(self, batch: Batch, /) -> tuple[Tensor, list[LayerGradient]]:
        """Losses, and gradients."""
        ...


class FactoredSums:
    """Clipped sums for models whose layers have rules."""

    largest_block = 2048

    def __init__(self, gradients: LayerGradients, clip: Clip, split: ParameterSplit, block: int) -> None:
        self._gradients, self._clip, self._block = gradients, clip, block
        self._shared = set(map(id, split.shared))
        self._place, start = {}, 0
        for parameter in split.parameters:
            self._place[parameter] = slice(start, start + parameter.numel())
            start += parameter.numel()

    def rows(self, block: Batch) -> Tensor:
        """Losses, and what each layer's gradients follow from."""
        losses, layers = self._gradients(block)
        return torch.cat([losses.double()[:, None], *(layer.rows() for layer in layers)], dim=1)

    def add(self, block: Batch, slots: Tensor, total: IntArray) -> tuple[float, int]:
        """See ``ClippedSums.add``; no gradient is written out."""
        losses, layers = self._gradients(block)
        norms, fit = self._cut(layers)
        kept = torch.zeros(self._block, dtype=torch.bool, device=fit.device)
        kept[slots] = fit[slots]
        for layer in layers:
            for parameter, part in zip(layer.parameters, layer.total(kept), strict=True):
                total[self._place[parameter]] += part.flatten().cpu().numpy().astype(np.int64)
        return float(losses[slots].sum()), int((norms[slots] > self._clip.norm).sum())

    def _cut(self, layers: Sequence[LayerGradient]) -> tuple[Tensor, Tensor]:
        """Clip whole gradients and cut them to integers; their norms before, and which meet the bound, ``(n,)`` each.

        Everything here is a function of one example's own gradient.
        """
        clip = self._clip
        # one layer after the other: a last one in which an example has nothing changes no bit of its norm
        norms = torch.as_tensor(sum(layer.squares() for layer in layers)).sqrt()
        factor, squares = clip.factors(norms), torch.zeros_like(norms)
        for layer in layers:
            shared = id(layer.parameters[0]) in self._shared
            squares += (1 if shared else clip.parts) * layer.cut(factor * clip.per_unit(shared=shared))
        return norms, clip.holds(squares)
