"""Residual-quantised variational autoencoder with a global and a local codebook.

Zeghidour et al., "SoundStream", 2021, and Lee et al., CVPR 2022, describe residual quantisation; van den Oord
et al., NeurIPS 2017, the losses and the straight-through estimator; FedMM (Zhang et al., SIGIR 2026) the
split into a federated first and a local second layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedmm_secure.quantization.codebook import Codebook


@dataclass(frozen=True)
class QuantizerShape:
    """Sizes of an RQ-VAE and the radii at which its codebooks start."""

    input_dim: int = 32
    hidden_dim: int = 64
    latent_dim: int = 16
    global_codes: int = 64
    local_codes: int = 64
    global_radius: float = 1.0
    local_radius: float = 0.5
    normalise_latent: bool = True


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; the reconstruction has weight 1."""

    codebook: float = 1.0
    commitment: float = 0.25
    entropy: float = 0.0
    temperature: float = 0.2

    @property
    def soft_temperature(self) -> float | None:
        """Temperature of soft assignments; None where their entropy has no weight and need not be computed."""
        return self.temperature if self.entropy else None


@dataclass(frozen=True)
class Quantized:
    """What one forward pass yields; per-example losses, ``(n,)`` each."""

    codes: Tensor  # (n, 2) int64: global, local
    reconstruction: Tensor
    codebook: Tensor
    commitment: Tensor
    entropy: Tensor

    def total(self, weights: LossWeights) -> Tensor:
        """Weighted losses ``(n,)``, each of its own row."""
        loss = self.reconstruction + weights.codebook * self.codebook + weights.commitment * self.commitment
        return loss - weights.entropy * self.entropy if weights.entropy else loss


class RQVAE(nn.Module):
    """Encoder, global codebook, local codebook on the residual, decoder.

    Inputs are rows of unit norm, ``(n, input_dim)``. No BatchNorm and no other statistic over the batch: the
    loss of one example depends on that example alone, which per-example clipping relies on.
    """

    def __init__(self, shape: QuantizerShape, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = _perceptron(shape.input_dim, shape.hidden_dim, shape.latent_dim, generator)
        self.decoder = _perceptron(shape.latent_dim, shape.hidden_dim, shape.input_dim, generator)
        self.global_codebook = Codebook(
            shape.global_codes, shape.latent_dim, radius=shape.global_radius, generator=generator
        )
        self.local_codebook = Codebook(
            shape.local_codes, shape.latent_dim, radius=shape.local_radius, generator=generator
        )

    def encode(self, x: Tensor) -> Tensor:
        """Latent vectors ``(n, latent_dim)``."""
        z = self.encoder(x)
        return nn.functional.normalize(z, dim=1) if self.shape.normalise_latent else z

    def forward(self, x: Tensor, temperature: float | None = None) -> Quantized:
        """Quantise and reconstruct; the entropy of soft assignments is 0 without a temperature."""
        z = self.encode(x)
        residual = z.detach()
        quantised = torch.zeros_like(residual)
        codes, codebook_loss, entropy = [], z.new_zeros(len(x)), z.new_zeros(len(x))
        for codebook in (self.global_codebook, self.local_codebook):
            distances = codebook(residual)
            code = distances.detach().argmin(dim=1)
            codebook_loss = codebook_loss + distances.gather(1, code[:, None])[:, 0]
            if temperature is not None:
                # flat soft assignment of one example pulls far codewords towards the data
                soft = torch.log_softmax(-distances / temperature, dim=1)
                entropy = entropy - (soft.exp() * soft).sum(1)
            word = codebook.lookup(code)
            quantised = quantised + word
            residual = residual - word
            codes.append(code)
        through = z + (quantised - z).detach()  # straight-through estimator
        reconstruction = ((self.decoder(through) - x) ** 2).sum(1)
        commitment = ((z - quantised) ** 2).sum(1)
        return Quantized(torch.stack(codes, dim=1), reconstruction, codebook_loss, commitment, entropy)

    @torch.no_grad()
    def assign(self, x: Tensor) -> Tensor:
        """Codes ``(n, 2)`` of inputs ``(n, input_dim)``: a function of each row and the parameters alone."""
        z = self.encode(x)
        first = self.global_codebook(z).argmin(dim=1)
        residual = z - self.global_codebook.lookup(first)
        return torch.stack([first, self.local_codebook(residual).argmin(dim=1)], dim=1)


def _perceptron(n_in: int, n_hidden: int, n_out: int, generator: torch.Generator) -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(n_in, n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_out))
    for layer in (layers[0], layers[2]):
        assert isinstance(layer, nn.Linear)
        nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
        nn.init.zeros_(layer.bias)
    return layers
