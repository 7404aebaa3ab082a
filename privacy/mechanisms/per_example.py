"""Gradients of single examples, in blocks of one fixed shape.

What DP-SGD cuts to a grid must be a function of one example alone, to the last bit: a sum that is rounded differently
when a neighbour leaves can flip a code and move another example's whole gradient. A block always has the same number
of slots, empty ones holding zeros, so that every example goes through the same kernels whoever sits beside it. Which
slots treat an example alike is a property of the linear algebra underneath: it is measured on public probes, and no
other slots are used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from privacy.mechanisms.device_checks import refuse_company

Batch = tuple[Tensor, ...]
# Numbers that kernels take at a time, at most, where each is computed by itself. What is left over of a tensor takes
# another path, which rounds a few values in a hundred otherwise (PyTorch's sigmoid): too few for probes to show.
LANES = 32
_PROBES = 3
BatchLoss = Callable[[nn.Module, Tensor], Tensor]
ExampleLoss = Callable[[Callable[..., Tensor], Batch], Tensor]


class PerExampleGradients(Protocol):
    """Sets ``grad_sample`` of every parameter ``(n, *shape)`` for a block; returns losses ``(n,)``."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """Those that the gradients are of, in order."""
        ...

    def __call__(self, batch: Batch, /) -> Tensor:
        """Losses ``(n,)`` of a block, whose gradients stand in ``grad_sample`` then."""
        ...


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
        """See ``PerExampleGradients``."""
        axes = (None, *(0 for _ in batch))
        detached = {name: parameter.detach() for name, parameter in self._named.items()}
        gradients, losses = vmap(self._differentiate, in_dims=axes)(detached, *batch)
        for name, parameter in self._named.items():
            parameter.grad_sample = gradients[name].detach()  # type: ignore[attr-defined]
        return torch.as_tensor(losses)


def padded(examples: Batch, chosen: Tensor, size: int, slots: Tensor | None = None) -> Batch:
    """The chosen examples in some slots of a block of ``size``, by default the first ones; zeros in the others."""
    block = []
    for part in examples:
        rows = part.new_zeros((size, *part.shape[1:]))
        rows[torch.arange(len(chosen)) if slots is None else slots[: len(chosen)]] = part[chosen]
        block.append(rows)
    return tuple(block)


def gradient_rows(gradients: PerExampleGradients, block: Batch) -> Tensor:
    """Gradients of a block's examples over all parameters, ``(size, n_parameters)``; leaves none behind."""
    for parameter in gradients.parameters:
        parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]
    gradients(block)
    rows = torch.cat([parameter.grad_sample.flatten(1) for parameter in gradients.parameters], dim=1)  # type: ignore[attr-defined]
    for parameter in gradients.parameters:
        parameter.grad = parameter.grad_sample = None  # type: ignore[attr-defined]
    return rows


def equal_slots(rows_of: Callable[[Batch], Tensor], like: Batch, size: int) -> Tensor:
    """Slots of a block in which the same example gives the same numbers to the last bit, ``(n_slots,)``, ascending.

    On some processors the linear algebra treats the last rows of a block by another path, and rounds them otherwise. If
    an example stood there only because others are absent, its gradient would depend on them. So only slots are used
    that treat public probes alike: which path a slot takes follows from the shape of the block, not from what is in it.
    Slots behind the last whole ``LANES`` are left out whatever probes say.

    Args:
        rows_of: from a block to numbers ``(size, …)``.
        like: examples whose shapes the probes have; their values are not read.
        size: of the block.

    Raises:
        RuntimeError: hardly any two slots are treated alike.
        DeviceError: on a GPU, an example is computed otherwise beside others.
    """
    probes = [tuple(_probe(part, size, probe) for part in like) for probe in range(_PROBES)]
    alike = np.ones(size, dtype=bool)
    for probe in probes:
        words = _words(rows_of(probe))
        alike &= (words == words[:1]).all(axis=1)
    if 2 * alike.sum() <= size:  # most are not like the first
        alike = _most(rows_of, probes, size)
    alike[max(size // LANES, 1) * LANES :] = False
    count = int(alike.sum())
    if count < max(1, size // 16):
        raise RuntimeError(
            f"only {count} of {size} slots of a block are treated alike by this machine's linear algebra: a user's "
            "gradient would depend on others"
        )
    slots = torch.from_numpy(np.flatnonzero(alike))
    if any(part.device.type != "cpu" for part in like):
        refuse_company(rows_of, probes[0], probes[1], slots)
    return slots


def _words(rows: Tensor) -> NDArray[Any]:
    """Rows as the bits that they are, ``(size, …)``: no number equals another, and none differs from itself."""
    found = rows.detach().cpu().contiguous().numpy()
    return found.reshape(len(found), -1).view(f"u{found.itemsize}")


def _most(rows_of: Callable[[Batch], Tensor], probes: list[Batch], size: int) -> NDArray[np.bool_]:
    """Which slots are of the largest group that is treated alike, the first of several."""
    marks = [b""] * size
    for probe in probes:
        marks = [mark + sha256(row.tobytes()).digest() for mark, row in zip(marks, _words(rows_of(probe)), strict=True)]
    most, _ = Counter(marks).most_common(1)[0]
    return np.array([mark == most for mark in marks])


def _probe(part: Tensor, size: int, number: int) -> Tensor:
    """The same public example in every slot: real numbers of all sizes, category 0."""
    shape = part.shape[1:]
    if not part.is_floating_point():
        return part.new_zeros((size, *shape))
    values = torch.sin(torch.arange(1.0, shape.numel() + 1.0) * (1.3 + number)).to(part.dtype)
    return values.reshape(1, *shape).repeat(size, *(1 for _ in shape)).to(part.device)
