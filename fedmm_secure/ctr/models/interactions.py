"""Parts of CTR networks: perceptrons, products and self-attention of fields, perceptrons that a bilinear form joins."""

from __future__ import annotations

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


class FieldPairs(nn.Module):
    """Products of all pairs of fields, added up, and fields side by side: a factorisation machine's, a perceptron's."""

    def forward(self, fields: Tensor) -> tuple[Tensor, Tensor]:
        """Fields ``(n, n_fields, dim)`` to sums ``(n,)`` and fields ``(n, n_fields * dim)``."""
        return pair_sums(fields, fields.sum(1)), fields.flatten(1)


def pair_sums(fields: Tensor, total: Tensor) -> Tensor:
    """Sums ``(n,)`` of products of all pairs of fields ``(n, n_fields, dim)``, whose sum is ``(n, dim)``."""
    return torch.as_tensor(0.5 * (total.square() - fields.square().sum(1)).sum(1))


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
