"""Neural CTR models over the same inputs: logistic regression, DeepFM, DCNv2, AutoInt, FinalMLP."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fedmm_secure.ctr.models.interactions import FieldAttention, FieldPairs, TwoStreams, linear, perceptron

NeuralKind = Literal["logistic", "deepfm", "dcnv2", "autoint", "finalmlp"]
CROSS_LAYERS = 2
ATTENTION_LAYERS = 2


class NeuralCTR(nn.Module):
    """Logits ``(n,)`` of categories ``(n, n_fields)`` and standardised numbers ``(n, n_numbers)``.

    - ``logistic``: first-order terms.
    - ``deepfm``: first-order terms, factorisation machine and perceptron (Guo et al., IJCAI 2017). A number is a
      field whose embedding is the number times a vector.
    - ``dcnv2``: full-rank cross layers beside a perceptron (Wang et al., WWW 2021).
    - ``autoint``: self-attention between fields beside a perceptron (AutoInt+; Song et al., CIKM 2019).
    - ``finalmlp``: two gated perceptrons, joined by a bilinear form (Mao et al., AAAI 2023).

    All have first-order terms, too.
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
        width = dim * len(cardinalities) + (n_numbers if kind == "dcnv2" else dim * n_numbers)
        if kind == "finalmlp":
            self.streams = TwoStreams(width, hidden, dropout, generator)
            return
        self.deep, before = perceptron(width, hidden, dropout, generator)
        if kind == "deepfm":
            self.pairs = FieldPairs()
        if kind == "dcnv2":
            self.crosses = nn.ModuleList(linear(width, width, generator) for _ in range(CROSS_LAYERS))
        if kind == "autoint":
            self.attention = nn.Sequential(*(FieldAttention(dim, generator) for _ in range(ATTENTION_LAYERS)))
        self.head = linear(before + (0 if kind == "deepfm" else width), 1, generator)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        """Logits ``(n,)`` of categories ``(n, n_fields)`` and numbers ``(n, n_numbers)``."""
        index = categories + self.offsets  # type: ignore[operator]
        logit = self.first(index).sum((1, 2))
        if numbers.shape[1]:
            logit = logit + numbers @ self.first_numbers
        logit = logit + self.bias
        if self.kind == "logistic":
            return torch.as_tensor(logit)
        embedded = self.embed(index)
        if self.kind == "dcnv2":
            start = torch.cat([embedded.flatten(1), numbers], dim=1)
            crossed = start
            for layer in self.crosses:
                crossed = start * layer(crossed) + crossed
            return torch.as_tensor(logit + self.head(torch.cat([crossed, self.deep(start)], dim=1))[:, 0])
        fields = embedded
        if numbers.shape[1]:
            fields = torch.cat([fields, numbers[:, :, None] * self.number_vectors], dim=1)
        if self.kind == "deepfm":
            pairs, flat = self.pairs(fields)
            return torch.as_tensor(logit + pairs + self.head(self.deep(flat))[:, 0])
        if self.kind == "autoint":
            met = self.attention(fields).flatten(1)
            return torch.as_tensor(logit + self.head(torch.cat([met, self.deep(fields.flatten(1))], dim=1))[:, 0])
        return torch.as_tensor(logit + self.streams(fields.flatten(1)))

    def embed(self, index: Tensor) -> Tensor:
        """Embeddings ``(n, n_fields, dim)`` of rows of the table ``(n, n_fields)``."""
        return torch.as_tensor(self.embedding(index))

    def table_parameters(self) -> list[Tensor]:
        """Embedding tables, which take their own weight decay."""
        tables: list[Tensor] = [self.first.weight]
        return tables if self.kind == "logistic" else [*tables, self.embedding.weight]
