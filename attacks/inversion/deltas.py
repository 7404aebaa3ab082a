"""Recover each market's codebook movement from the messages that a view holds.

How depends on what the adversary has:

- the server alone reads payloads as the integers that ``plaintext`` would carry;
- the server with a market opens each single update with the key that all markets share;
- a market alone takes its own update from the sum: with one other market that leaves the other's, with more their mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.metrics import Estimate, bounded_estimate, proportion
from attacks.views import View
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.messages import unpack
from privacy.aggregation import CKKSMarket, CKKSServer

WORD = np.dtype("<i8")
Update = tuple[str, int, str]  # stage, round, sender
Deltas = dict[Update, NDArray[np.float64]]


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


def guess_deltas(view: View) -> Deltas:
    """Fixed-point movements ``(length,)`` that the adversary makes of its view, by stage, round and market.

    Raises:
        ValueError: the view holds no updates and no sums.
    """
    guesses = _by_differencing(view) if view.name == "market" else _by_opening(view)
    if not guesses:
        raise ValueError(f"the {view.name} view holds no updates")
    return guesses


def read_update(message: bytes, length: int) -> NDArray[np.float64]:
    """The attempt without a key: read the payload as ``length`` 64-bit integers, whatever it is."""
    _, payload = unpack(message)
    usable = payload[: len(payload) // WORD.itemsize * WORD.itemsize]
    words = np.frombuffer(usable, dtype=WORD)[:length].astype(np.float64)
    return np.pad(words, (0, length - len(words)))


def recover_deltas(view: View, truth: View) -> DeltaRecovery:
    """Attack every update in ``view`` but the adversary's own; ``truth`` is used for scoring only."""
    true = true_deltas(truth)
    guesses = {update: guess for update, guess in guess_deltas(view).items() if update in true}
    senders = sorted({sender for _, _, sender in guesses})
    exact, identified, cosines = 0, 0, []
    for (stage, round, sender), guess in guesses.items():
        own = true[stage, round, sender]
        exact += int(np.array_equal(guess, own))
        cosines.append(cosine(guess, own))
        closeness = {
            other: cosine(guess, true[stage, round, other]) for other in senders if (stage, round, other) in true
        }
        identified += int(max(closeness, key=lambda other: closeness[other]) == sender)
    return DeltaRecovery(
        messages=len(guesses),
        exact_share=proportion(exact, len(guesses)),
        cosine=bounded_estimate(np.asarray(cosines), -1.0),
        identified=proportion(identified, len(guesses)),
        chance=1.0 / len(senders),
    )


def true_deltas(truth: View) -> Deltas:
    """What the markets sent, for scoring."""
    return {
        (found.stage, found.round, found.sender): np.frombuffer(found.data, WORD).astype(np.float64)
        for found in truth.select("own-update")
    }


def cosine(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Cosine similarity; 0 where a vector is 0."""
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norms if norms > 0 else 0.0


def _by_opening(view: View) -> Deltas:
    read = _reader(view)
    return {
        (found.stage, found.round, found.sender): read(found.data)
        for found in view.select("update")
        if found.sender not in view.markets
    }


def _reader(view: View) -> Callable[[bytes], NDArray[np.float64]]:
    """How the adversary reads one update: with the key, where it has it."""
    if view.bundle is None:
        raise ValueError(f"the {view.name} view lacks the federation's public material")
    plan = AggregationPlan.from_public(view.bundle.aggregation)
    if view.key is None or plan.parameters is None:
        return lambda message: read_update(message, plan.carried)[: plan.length]
    server, market = CKKSServer(plan.parameters), CKKSMarket(plan.parameters, view.key)
    bits = plan.mask_bits if plan.masked else None

    def opened(message: bytes) -> NDArray[np.float64]:
        _, payload = unpack(message)
        values = market.reveal(server.aggregate([payload]))[: plan.length]  # a sum over one market, without its tag
        if bits is not None:  # masked values are residues: centre them, as the sum's would be
            values = (values + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
        return values.astype(np.float64)

    return opened


def _by_differencing(view: View) -> Deltas:
    own: Deltas = true_deltas(view)
    cohorts: dict[tuple[str, int], tuple[str, ...]] = {}
    found: Deltas = {}
    for message in view.select("aggregate"):
        header, _ = unpack(message.data)
        cohorts[message.stage, message.round] = header.cohort
    (market,) = view.markets
    for record in view.select("sum"):
        others = [name for name in cohorts[record.stage, record.round] if name != market]
        mine = own.get((record.stage, record.round, market), 0.0)
        rest = np.frombuffer(record.data, WORD).astype(np.float64) - mine
        found |= {(record.stage, record.round, other): rest / len(others) for other in others}
    return found
