"""Inference: is an item named that a user has, by who knows the other half of the user's history?

What is published about a user was made from the whole history. Users left out have no record: theirs is made from the
known half, with what is published, which is what the release says about people in general.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from attacks.disclosure.releases import CODES, RANDOMISED, RECORDS, SCORES, Release, published, split_histories
from attacks.disclosure.risk import Outcome, Risk, Tally
from fedmm_secure.data.market import FloatArray

TARGETS = 400  # of each side: an account is asked about every item
ATTACK = "first item named"


def infer_items(releases: Sequence[Release], rng: np.random.Generator) -> list[Risk]:
    """By what is published: how often the first item that is named stands in the half that is not known."""
    halved = [(release, *split_histories(release.histories, rng)) for release in releases]
    return [
        Risk.of(name, ATTACK, [_infer(name, release, known, hidden) for release, known, hidden in halved])
        for name in published(releases[0])
    ]


def _infer(name: str, release: Release, known: sparse.csr_array, hidden: sparse.csr_array) -> Outcome:
    inside, outside = release.inside[:TARGETS], release.outside[:TARGETS]
    # an account is the adversary's own: it holds the half that is known, whoever the user is
    of_user = known if name == SCORES else release.histories
    of_stranger = CODES if name == RANDOMISED else name  # what the adversary makes itself is not randomised
    popular = _popularity(release)
    attack, control = (
        _named(_scores(how, release, made[users], popular), known[users], hidden[users], release)
        for how, made, users in ((name, of_user, inside), (of_stranger, known, outside))
    )
    blind = np.broadcast_to(popular, (len(inside), len(popular)))
    return Outcome(attack, control, _named(blind, known[inside], hidden[inside], release))


def _popularity(release: Release) -> FloatArray:
    """Logarithm of the counts of the pool's items among users of the release, ``(n_pool,)``."""
    counts = np.asarray(release.histories[release.inside].sum(axis=0)).ravel()
    return np.asarray(np.log1p(counts[release.pool]))


def _scores(name: str, release: Release, histories: sparse.csr_array, popular: FloatArray) -> FloatArray:
    """How likely each item of the pool is, ``(n, n_pool)``; scores of a service know what is popular."""
    records = RECORDS[name](release, histories, release.pool)
    return records if name == SCORES else records / max(float(records.std()), 1e-12) + popular


def _named(score: FloatArray, known: sparse.csr_array, hidden: sparse.csr_array, release: Release) -> Tally:
    """Whether the item of the pool that scores highest, of those not known, is one of the hidden."""
    seen, wanted = (part[:, release.pool].toarray() > 0 for part in (known, hidden))
    best = np.where(seen, -np.inf, score).argmax(1)
    found: NDArray[np.bool_] = wanted[np.arange(len(best)), best]
    return Tally.of(found)
