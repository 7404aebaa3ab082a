"""Seeds by name: every *public* random choice that may be reproduced has its own stream.

What is drawn from these generators is known to whoever knows the configuration. Nothing that a guarantee rests on may
come from them: noise, Poisson samples, randomised response and negatives of private training come from ``NoiseSource``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from privacy.mechanisms.randomness import NoiseSource

if TYPE_CHECKING:
    import torch


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed that depends on all parts; streams of different names are independent."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def numpy_generator(*parts: str | int) -> np.random.Generator:
    """A generator of public randomness by name: equal for equal parts, independent for others."""
    return np.random.default_rng(derive_seed(*parts))


def torch_generator(*parts: str | int) -> torch.Generator:
    """A generator of public randomness by name: equal for equal parts, independent for others."""
    import torch  # by whoever trains; reading markets and making candidates does without it

    return torch.Generator().manual_seed(derive_seed(*parts))


def noise_source(seed: int | None, *parts: str | int) -> NoiseSource:
    """Private randomness of the operating system; with a seed, which only tests give, a reproducible stream."""
    if seed is None:
        return NoiseSource.from_entropy()
    return NoiseSource.from_seed(seed).derive(*parts)
