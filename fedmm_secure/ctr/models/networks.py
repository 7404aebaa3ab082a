"""Neural CTR models over the same inputs: logistic regression, DeepFM, DCNv2."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

NeuralKind = Literal["logistic", "deepfm", "dcnv2"]
CROSS_LAYERS = 2


class NeuralCTR(nn.Module):
    """Logits ``(n,)`` of categories ``(n, n_fields)`` and standardised numbers ``(n, n_numbers)``.

    - ``logistic``: first-order terms.
    - ``deepfm``: first-order terms, factorisation machine and perceptron (Guo et al., IJCAI 2017). A number is a
      field whose embedding is the number times a vector.
    - ``dcnv2``: full-rank cross layers beside a perceptron (Wang et al., WWW 2021).
    """

    def __init__(
        self,
        kind: NeuralKind,
        cardinalities: tuple[int, ...],
        n_numbers: int,
        *,
        dim: int,
        hidden: tuple[int, ...],
        dropout: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.kind = kind
        offsets = torch.tensor([0, *cardinalities]).cumsum(0)[:-1] if cardinalities else torch.zeros(0).long()
        self.register_buffer("offsets", offsets)
        total = max(sum(cardinalities), 1)
        self.first = nn.Embedding(total, 1)
        self.first_numbers = nn.Parameter(torch.zeros(n_numbers))
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.zeros_(self.first.weight)
        if kind == "logistic":
            return
        self.embedding = nn.Embedding(total, dim)
        nn.init.normal_(self.embedding.weight, std=0.05, generator=generator)
        self.number_vectors = nn.Parameter(0.05 * torch.randn(n_numbers, dim, generator=generator))
        width = dim * len(cardinalities) + (dim * n_numbers if kind == "deepfm" else n_numbers)
        layers: list[nn.Module] = []
        before = width
        for size in hidden:
            layers += [_linear(before, size, generator), nn.ReLU(), nn.Dropout(dropout)]
            before = size
        self.deep = nn.Sequential(*layers)
        if kind == "dcnv2":
            self.crosses = nn.ModuleList(_linear(width, width, generator) for _ in range(CROSS_LAYERS))
        self.head = _linear(before + (width if kind == "dcnv2" else 0), 1, generator)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        index = categories + self.offsets  # type: ignore[operator]
        logit = self.first(index).sum((1, 2)) + numbers @ self.first_numbers + self.bias
        if self.kind == "logistic":
            return torch.as_tensor(logit)
        embedded = self.embedding(index)
        if self.kind == "deepfm":
            fields = torch.cat([embedded, numbers[:, :, None] * self.number_vectors], dim=1)
            pairs = 0.5 * (fields.sum(1).square() - fields.square().sum(1)).sum(1)
            return torch.as_tensor(logit + pairs + self.head(self.deep(fields.flatten(1)))[:, 0])
        start = torch.cat([embedded.flatten(1), numbers], dim=1)
        crossed = start
        for layer in self.crosses:
            crossed = start * layer(crossed) + crossed
        return torch.as_tensor(logit + self.head(torch.cat([crossed, self.deep(start)], dim=1))[:, 0])

    def table_parameters(self) -> list[Tensor]:
        """Embedding tables, which take their own weight decay."""
        tables: list[Tensor] = [self.first.weight]
        return tables if self.kind == "logistic" else [*tables, self.embedding.weight]


def _linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(n_in, n_out)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
