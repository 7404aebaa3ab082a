"""How many parameters the private stages train: each draws a value of noise in every step."""

from __future__ import annotations

from itertools import pairwise

from fedmm_secure.config import Config

_MOST_FIELDS = 8  # categories of a pair under protect: release, at most
_MOST_NUMBERS = 48  # numbers of a pair, likewise


def quantizer_parameters(config: Config) -> int:
    """Trained parameters of the RQ-VAE."""
    quantizer = config.quantizer
    dim = config.embedding.private.dim if config.private_embedding else config.embedding.dim
    layers = _perceptron([dim, quantizer.hidden_dim, quantizer.latent_dim])
    layers += _perceptron([quantizer.latent_dim, quantizer.hidden_dim, dim])
    return layers + (quantizer.global_codes + quantizer.local_codes) * quantizer.latent_dim


def most_ctr_parameters(config: Config, items: int) -> int:
    """Parameters of a CTR network that may be released, at most; training refuses one that has more."""
    quantizer, ctr = config.quantizer, config.ctr
    tables = 2 * (quantizer.global_codes + quantizer.local_codes) + (items if "item_id" in ctr.features else 0)
    width = ctr.dim * (_MOST_FIELDS + _MOST_NUMBERS)
    crosses = 2 * width * (width + 1) if ctr.model == "dcnv2" else 0
    layers = [width, *ctr.hidden]
    deep = _perceptron(layers) + layers[-1] + width + 1
    return max(tables, 1) * (ctr.dim + 1) + _MOST_NUMBERS * (ctr.dim + 1) + 1 + crosses + deep


def _perceptron(widths: list[int]) -> int:
    """Weights and biases of layers of these widths."""
    return sum((before + 1) * after for before, after in pairwise(widths))
