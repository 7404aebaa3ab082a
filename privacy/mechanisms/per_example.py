"""Gradients of single examples, in two ways; both work on blocks of one fixed shape.

What DP-SGD cuts to a grid must be a function of one example alone, to the last bit: a sum that is rounded differently
when a neighbour leaves can flip a code and move another example's whole gradient. A block always has the same number
of slots, empty ones holding zeros, so that every example goes through the same kernels whoever sits beside it. That a
gradient is then the same in every slot is a property of the linear algebra underneath, which a test measures.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

# Opacus' hooks warn where a module's inputs are data and need no gradient themselves; per-example gradients of the
# parameters are complete all the same (a test compares them with single backward passes)
warnings.filterwarnings("ignore", message=".*[Ff]ull backward hook is firing.*", category=UserWarning)

Batch = tuple[Tensor, ...]
BatchLoss = Callable[[nn.Module, Tensor], Tensor]
ExampleLoss = Callable[[Callable[..., Tensor], Batch], Tensor]


class PerExampleGradients(Protocol):
    """Sets ``grad_sample`` of every parameter ``(n, *shape)`` for a block; returns losses ``(n,)``."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]: ...

    def __call__(self, batch: Batch, /) -> Tensor: ...


class HookGradients:
    """Through Opacus' hooks: fast, for modules whose layers have a gradient sampler.

    ``loss`` maps (model, examples ``(n, …)``) to losses ``(n,)``; the loss of one example must depend on that
    example alone.
    """

    def __init__(self, model: nn.Module, loss: BatchLoss) -> None:
        self._wrapped = GradSampleModule(model, loss_reduction="sum")
        self._loss = loss
        self.parameters: Sequence[nn.Parameter] = list(self._wrapped.parameters())
        self._wrapped.disable_hooks()

    def __call__(self, batch: Batch) -> Tensor:
        self._wrapped.enable_hooks()
        try:
            return self._backward(batch)
        finally:  # ordinary steps on rows that cost no budget need no gradients of single examples
            self._wrapped.disable_hooks()

    def _backward(self, batch: Batch) -> Tensor:
        losses = self._loss(self._wrapped, batch[0])
        losses.sum().backward()
        return losses.detach()


class FunctionalGradients:
    """Through ``torch.func``: for any module, and for examples that are bags of rows.

    ``loss`` maps (forward, one example) to a scalar, where ``forward`` is the model with its parameters bound.
    """

    def __init__(self, model: nn.Module, loss: ExampleLoss) -> None:
        self._named = dict(model.named_parameters())
        self.parameters: Sequence[nn.Parameter] = list(self._named.values())

        def one(parameters: Mapping[str, Tensor], *example: Tensor) -> Tensor:
            return loss(lambda *inputs: functional_call(model, dict(parameters), inputs), example)

        self._differentiate = grad_and_value(one)

    def __call__(self, batch: Batch) -> Tensor:
        axes = (None, *(0 for _ in batch))
        detached = {name: parameter.detach() for name, parameter in self._named.items()}
        gradients, losses = vmap(self._differentiate, in_dims=axes)(detached, *batch)
        for name, parameter in self._named.items():
            parameter.grad_sample = gradients[name].detach()  # type: ignore[attr-defined]
        return torch.as_tensor(losses)


def padded(examples: Batch, chosen: Tensor, size: int) -> Batch:
    """The chosen examples in the first slots of a block of ``size``, zeros in the others."""
    block = []
    for part in examples:
        slots = part.new_zeros((size, *part.shape[1:]))
        slots[: len(chosen)] = part[chosen]
        block.append(slots)
    return tuple(block)
