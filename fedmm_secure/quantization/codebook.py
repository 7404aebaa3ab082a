"""A codebook whose codewords are parameters, trained by gradient.

Codewords are reached by gradients in one way only, through their squared distances to an input. One rule for
per-example gradients (registered with Opacus below) therefore covers every loss that touches a codebook,
so that DP-SGD clips and noises all of it. Exponential-moving-average updates, k-means initialisation and
revival of dead codes from data rows are absent on purpose: they read users' rows outside DP-SGD.
"""

from __future__ import annotations

import torch
from opacus.grad_sample import register_grad_sampler
from torch import Tensor, nn


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


@register_grad_sampler(Codebook)  # type: ignore[untyped-decorator]
def _codebook_grad_sample(layer: Codebook, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    """Per-example gradient of the codewords: ``d||x - c_k||^2 / dc_k = 2 (c_k - x)``."""
    gap = layer.codewords[None, :, :] - activations[0][:, None, :]
    return {layer.codewords: 2.0 * backprops[:, :, None] * gap}
