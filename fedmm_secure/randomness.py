"""Seeds by name: every random choice that may be reproduced has its own stream."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed that depends on all parts; streams of different names are independent."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def numpy_generator(*parts: str | int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(*parts))


def torch_generator(*parts: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(*parts))
