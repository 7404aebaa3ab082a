"""A codebook whose codewords are parameters, trained by gradient.

Codewords are reached by gradients in one way only, through their squared distances to an input. One rule for
gradients of single examples (below) therefore covers every loss that touches a codebook, so that DP-SGD clips and
noises all of it. Exponential-moving-average updates, k-means initialisation and
revival of dead codes from data rows are absent on purpose: they read users' rows outside DP-SGD.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from privacy.mechanisms.factored_sums import LayerGradient


class Codebook(nn.Module):
    """``n_codes`` codewords of ``dim`` entries, initialised on a sphere of the given radius.

    The radius should match the norm of what is quantised (scale-aware initialisation): a codeword far from
    every input is never chosen and, without data-dependent revival, never comes back.
    """

    def __init__(self, n_codes: int, dim: int, *, radius: float, generator: torch.Generator) -> None:
        super().__init__()
        directions = torch.randn(n_codes, dim, generator=generator)
        self.codewords = nn.Parameter(radius * nn.functional.normalize(directions, dim=1))

    def forward(self, x: Tensor) -> Tensor:
        """Squared Euclidean distances ``(n, n_codes)`` of inputs ``(n, dim)``."""
        cross = x @ self.codewords.T
        return (x * x).sum(1, keepdim=True) - 2.0 * cross + (self.codewords * self.codewords).sum(1)

    @torch.no_grad()
    def lookup(self, codes: Tensor) -> Tensor:
        """Codewords ``(n, dim)`` of codes ``(n,)``, detached."""
        return self.codewords[codes]


class CodebookGradient(LayerGradient):
    """Gradients of single examples in a codebook: ``d||x - c_k||² / dc_k = 2 (c_k - x)``.

    Args:
        codebook: the codebook.
        inputs: ``(n, dim)``.
        outgoing: gradients of the distances, ``(n, n_codes)``.
        chosen_alone: every loss reaches one codeword of an example; otherwise all of them.
    """

    def __init__(self, codebook: Codebook, inputs: Tensor, outgoing: Tensor, *, chosen_alone: bool) -> None:
        self.parameters: Sequence[nn.Parameter] = [codebook.codewords]
        words = codebook.codewords.detach().double()
        x, back = inputs.double(), outgoing.double()
        self._at: Tensor | None = None
        if chosen_alone:
            self._at = back.abs().argmax(dim=1)
            self.left = 2.0 * back.gather(1, self._at[:, None]) * (words[self._at] - x)
        else:
            self.left = (2.0 * back[:, :, None] * (words[None] - x[:, None])).flatten(1)
        self.unit = self.lengths = self.left.new_ones(len(x))  # nothing else is multiplied with it

    def rows(self) -> Tensor:
        """All that the gradients follow from, ``(n, dim + 1)``."""
        return torch.cat([self.left, self.squares()[:, None]], dim=1)

    def total(self, kept: Tensor) -> list[Tensor]:
        """The one sum, of the codebook's shape."""
        values = torch.where(kept[:, None], self.left, 0.0)
        if self._at is None:
            return [values.sum(dim=0)]
        shape = self.parameters[0].shape
        return [values.new_zeros(shape).index_add_(0, self._at, values)]
