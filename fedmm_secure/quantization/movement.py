"""How the global codebook moves with each round's sum: by one code, in every market and in whoever checks them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from fedmm_secure.data.market import FloatArray, IntArray


class SharedSteps:
    """Steps of the global codebook by the cohort's gradients; the same everywhere, for the same gradients.

    Args:
        codewords: ``(n_codes, dim)``, moved in place.
        learning_rate: of Adam.
    """

    def __init__(self, codewords: nn.Parameter, learning_rate: float) -> None:
        self._codewords = codewords
        self._optimizer = torch.optim.Adam([codewords], lr=learning_rate)

    def apply(self, total: IntArray, unit: float) -> None:
        """One step.

        Args:
            total: ``(n_codes * dim,)``, the cohort's summed gradient.
            unit: what one is worth: the grid's step over the users that a step expects.
        """
        gradient = (total * unit).reshape(tuple(self._codewords.shape)).astype(np.float32)
        self._codewords.grad = torch.from_numpy(gradient)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What ``state_dict`` gave."""
        self._optimizer.load_state_dict(state)


def move(codewords: nn.Parameter, start: np.ndarray, mean: FloatArray) -> None:
    """Set the global codebook to where the round began, and move it by the cohort's mean; both ``(n_codes, dim)``."""
    moved = (start.astype(np.float64) + mean).astype(np.float32)
    with torch.no_grad():
        codewords.copy_(torch.from_numpy(moved))
