"""Recover each market's codebook movement from the messages that a view holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.metrics import Estimate, mean_estimate, proportion
from attacks.views import View
from fedmm_secure.federation.messages import unpack

WORD = np.dtype("<i8")


@dataclass(frozen=True)
class DeltaRecovery:
    """How close the recovered movements come to the true ones.

    Attributes:
        messages: updates attacked.
        exact_share: share recovered exactly.
        cosine: mean cosine similarity to the true movement.
        identified: share of messages whose recovered movement is closer to its sender's true movement than to
            any other market's of that round.
        chance: what guessing identifies.
    """

    messages: int
    exact_share: Estimate
    cosine: Estimate
    identified: Estimate
    chance: float


def read_update(message: bytes, length: int) -> NDArray[np.float64]:
    """The attempt: read the payload as ``length`` 64-bit integers, whatever it is."""
    _, payload = unpack(message)
    usable = payload[: len(payload) // WORD.itemsize * WORD.itemsize]
    words = np.frombuffer(usable, dtype=WORD)[:length].astype(np.float64)
    return np.pad(words, (0, length - len(words)))


def recover_deltas(view: View, truth: View) -> DeltaRecovery:
    """Attack every update in ``view``; ``truth`` is used for scoring only."""
    true = {
        (found.stage, found.round, found.sender): np.frombuffer(found.data, WORD).astype(np.float64)
        for found in truth.select("own-update")
    }
    updates = [found for found in view.select("update") if (found.stage, found.round, found.sender) in true]
    if not updates:
        raise ValueError(f"the {view.name} view holds no updates")
    senders = sorted({found.sender for found in updates})
    exact, identified, cosines = 0, 0, []
    for found in updates:
        own = true[found.stage, found.round, found.sender]
        guess = read_update(found.data, len(own))
        exact += int(np.array_equal(guess, own))
        cosines.append(_cosine(guess, own))
        closeness = {
            sender: _cosine(guess, true[found.stage, found.round, sender])
            for sender in senders
            if (found.stage, found.round, sender) in true
        }
        identified += int(max(closeness, key=lambda sender: closeness[sender]) == found.sender)
    return DeltaRecovery(
        messages=len(updates),
        exact_share=proportion(exact, len(updates)),
        cosine=mean_estimate(np.asarray(cosines)),
        identified=proportion(identified, len(updates)),
        chance=1.0 / len(senders),
    )


def _cosine(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norms if norms > 0 else 0.0
