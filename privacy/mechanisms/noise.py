"""Where noise comes from."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class NoiseSource:
    """A generator for noise and Poisson sampling, with the fact that matters about its seed.

    A seed that is known, or stored beside the noise it generated, voids the guarantee; ``seeded`` goes into
    the ledger and makes a run unfit for a compliance report.
    """

    generator: torch.Generator
    seeded: bool
    seed: int | None = None  # of noise that is reproducible anyway; that of any other is kept nowhere

    @classmethod
    def from_entropy(cls) -> NoiseSource:
        """Seeded by the operating system's entropy; the seed is kept nowhere."""
        return cls(torch.Generator().manual_seed(secrets.randbits(63)), seeded=False)

    @classmethod
    def from_seed(cls, seed: int) -> NoiseSource:
        """Reproducible noise, for tests."""
        return cls(torch.Generator().manual_seed(seed), seeded=True, seed=seed)

    def restart(self, step: int) -> None:
        """Begin a step: reproducible noise has a stream for each, whatever was drawn before; other noise goes on.

        A run that is killed between two steps then goes on with the noise that it would have drawn. Without a stream
        for each step it would draw that of the first again.
        """
        if self.seed is not None:
            digest = hashlib.sha256(f"{self.seed} {step}".encode()).digest()
            self.generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def numpy_generator(self) -> np.random.Generator:
        """A generator for private choices other than noise, as unpredictable as the noise."""
        return np.random.default_rng(int(torch.randint(2**62, (), generator=self.generator)))
