"""Linkability: are two records of the same user found to belong together?

Records carry no name. Each of one list is linked to the record of another list that is most like it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from attacks.disclosure.releases import RECORDS, Records, Release, published, split_histories
from attacks.disclosure.risk import Outcome, Risk, Tally
from fedmm_secure.data.market import FloatArray, IntArray

SHOWN = 200  # items that records are compared over
HALVES, RELEASES = "two halves of a history", "two releases"


def link(releases: Sequence[Release], again: Release, rng: np.random.Generator) -> list[Risk]:
    """By what is published: how many records are linked to that of the same user.

    Args:
        releases: of a market, either with other users.
        again: another release of the first one's users.
        rng: halves histories, and chooses between records that are equally alike.
    """
    halved = [(release, *split_histories(release.histories, rng)) for release in releases]
    first, found = releases[0], []
    for name in published(first):
        records = RECORDS[name]
        outcomes = [_link(records, (release, left), (release, right), rng) for release, left, right in halved]
        found.append(Risk.of(name, HALVES, outcomes))
        twice = _link(records, (first, first.histories), (again, first.histories), rng)
        found.append(Risk.of(name, RELEASES, [twice]))
    return found


Listed = tuple[Release, sparse.csr_array]
"""A release, and the histories that records of users are made from."""


def _link(records: Records, left: Listed, right: Listed, rng: np.random.Generator) -> Outcome:
    release = left[0]
    items = release.pool[:: -(-len(release.pool) // SHOWN)]

    def linked(users: IntArray) -> Tally:
        both = [records(where, histories[users], items) for where, histories in (left, right)]
        return Tally.of(find(both[0], both[1], rng))

    sizes = [np.diff(histories[release.inside].indptr).astype(np.float64) for _, histories in (left, right)]
    apart = np.abs(sizes[0][:, None] - sizes[1][None])
    return Outcome(linked(release.inside), linked(release.outside), Tally.of(_nearest(-apart, rng)))


def find(left: FloatArray, right: FloatArray, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whether each record of one list ``(n, k)`` is most like that of the same user in the other."""
    rows = []
    for records in (left, right):
        centred = records - records.mean(0)
        rows.append(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12))
    return _nearest(rows[0] @ rows[1].T, rng)


def _nearest(similarity: FloatArray, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Whether the largest of each row stands on the diagonal; of equal ones any is chosen."""
    best = similarity >= similarity.max(1, keepdims=True) - 1e-9
    chosen = np.where(best, rng.random(best.shape), -1.0).argmax(1)
    return np.asarray(chosen == np.arange(len(chosen)))
