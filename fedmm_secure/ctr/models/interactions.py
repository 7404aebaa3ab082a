"""Parts of CTR networks: perceptrons, self-attention between fields, two perceptrons that a bilinear form joins."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

HEADS = 2


def linear(n_in: int, n_out: int, generator: torch.Generator, *, bias: bool = True) -> nn.Linear:
    """A layer with Glorot's weights, and no bias to begin with."""
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def perceptron(
    width: int, hidden: tuple[int, ...], dropout: float, generator: torch.Generator
) -> tuple[nn.Sequential, int]:
    """Layers of given widths with ReLU and dropout, and the width of what they give."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [linear(width, size, generator), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers), width


class RectifiedDropout(nn.Module):
    """ReLU, then dropout, in one pass: gradients take the same factors, 0 or ``1 / (1 - rate)``.

    Which units are left out is told by 16 bits for each, of a generator that is several times as fast as PyTorch's:
    there the draws took a quarter of a training step. The rate is rounded to a multiple of 2^-16. They are drawn on the
    processor wherever the network trains: the same units are left out on every device.

    Args:
        rate: of the units that are left out in training.
        bits: generator of them.
    """

    def __init__(self, rate: float, bits: np.random.Generator) -> None:
        super().__init__()
        self._out, self._bits = min(round(rate * 2**16), 2**16 - 1), bits
        self._scale = np.float32(2**16 / (2**16 - self._out))

    def forward(self, inputs: Tensor) -> Tensor:
        """Of the same shape."""
        if not self.training or not self._out:
            return torch.relu(inputs)
        drawn = self._bits.bit_generator.random_raw(-(-inputs.numel() // 4)).view(np.int16)[: inputs.numel()]
        # NumPy compares several times as fast as PyTorch, and what is written in place need not be fetched
        factors = torch.from_numpy((drawn >= self._out - 2**15) * self._scale).view(inputs.shape).to(inputs.device)
        torch.ops.aten.threshold_backward.grad_input(factors, inputs.detach(), 0.0, grad_input=factors)
        return inputs * factors


class EmbeddingTable(nn.Embedding):
    """An embedding whose gradient is summed in a third of the time on the processor, to the last bit the same.

    Args:
        weight: ``(n, dim)``; it is the table's own from now on.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.shape[0], weight.shape[1], _weight=weight.detach())

    def forward(self, input: Tensor) -> Tensor:
        """Rows ``(…, dim)`` of places ``(…)``."""
        if not self.weight.is_cpu:
            return super().forward(input)
        return self.weight.index_select(0, input.flatten()).view(*input.shape, self.embedding_dim)


def with_fast_parts(network: nn.Module, bits: np.random.Generator) -> None:
    """Put ``EmbeddingTable`` in place of embeddings, and ``RectifiedDropout`` of each ReLU and dropout of perceptrons.

    For training on whole batches: gradients of single examples are computed through the modules that were there.
    """
    for name, part in list(network.named_children()):
        if isinstance(part, nn.Embedding):
            setattr(network, name, EmbeddingTable(part.weight))
    for stack in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for place, (one, other) in enumerate(pairwise(stack)):
            if isinstance(one, nn.ReLU) and isinstance(other, nn.Dropout):
                stack[place], stack[place + 1] = nn.Identity(), RectifiedDropout(other.p, bits)


class FieldAttention(nn.Module):
    """Self-attention between fields ``(n, n_fields, dim)``, of the same shape, with a residual connection.

    Heads are as wide as there is room for in ``dim``; products are not scaled (Song et al., CIKM 2019, section 4.4).
    """

    def __init__(self, dim: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = HEADS if dim % HEADS == 0 else 1
        self.query, self.key, self.value, self.rest = (linear(dim, dim, generator, bias=False) for _ in range(4))

    def forward(self, fields: Tensor) -> Tensor:
        """Fields ``(n, n_fields, dim)`` to fields of the same shape."""
        query, key, value = (
            layer(fields).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        weights = torch.softmax(query @ key.transpose(2, 3), dim=3)
        met = (weights @ value).transpose(1, 2).flatten(2)
        return torch.relu(met + self.rest(fields))


class TwoStreams(nn.Module):
    """Logits ``(n,)`` of inputs ``(n, width)``: two perceptrons on gated inputs, joined by a bilinear form.

    Without context features a stream's gate is a learned vector, 1 to begin with (Mao et al., AAAI 2023, section 3).
    """

    def __init__(self, width: int, hidden: tuple[int, ...], dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.gates = nn.Parameter(torch.zeros(2, width))
        self.first, out = perceptron(width, hidden, dropout, generator)
        self.second, _ = perceptron(width, hidden, dropout, generator)
        self.heads = HEADS if out % HEADS == 0 else 1
        size = out // self.heads
        self.linear = linear(2 * out, 1, generator)
        self.form = nn.Parameter(torch.empty(self.heads, size, size))
        nn.init.xavier_uniform_(self.form, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs ``(n, width)`` to logits ``(n,)``."""
        gates = 2.0 * torch.sigmoid(self.gates)
        one, other = self.first(inputs * gates[0]), self.second(inputs * gates[1])
        halves = (stream.unflatten(1, (self.heads, -1)) for stream in (one, other))
        bilinear = torch.einsum("nhi,hij,nhj->n", next(halves), self.form, next(halves))
        return torch.as_tensor(self.linear(torch.cat([one, other], dim=1))[:, 0] + bilinear)
