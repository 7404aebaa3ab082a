"""Singling out: predicates that fit exactly one user of a release (Cohen, Nissim, PNAS 2020).

What is published suggests predicates; each is tried on the users of the release and, for the control, on as many users
who were left out. A predicate that fits one in ``n`` people isolates one of ``n`` with probability 37 % whoever they
are, which is what the control is for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from attacks.disclosure.releases import CODES, EMBEDDINGS, RANDOMISED, RECORDS, SCORES, Release, published
from attacks.disclosure.risk import Outcome, Risk, Tally
from fedmm_secure.data.market import FloatArray, IntArray

PREDICATES = 200  # of scores
ASKED = 300  # accounts with a single item
_NEAR = 0.1  # of the distance to the nearest other record: how far from a record a predicate reaches


def single_out(releases: Sequence[Release]) -> list[Risk]:
    """By what is published: how many of its predicates isolate somebody."""
    attacks: dict[str, tuple[str, Callable[[Release], Outcome]]] = {
        CODES: ("pair of codes", lambda release: _by_codes(release, release.codes)),
        RANDOMISED: ("pair of codes", lambda release: _by_codes(release, release.randomised)),
        EMBEDDINGS: ("neighbourhood of a record", _by_embeddings),
        SCORES: ("two items that score together", _by_scores),
    }
    return [
        Risk.of(name, attacks[name][0], [attacks[name][1](release) for release in releases])
        for name in published(releases[0])
    ]


def class_sizes(codes: IntArray) -> IntArray:
    """How many users ``(n,)`` have each user's pair of codes ``(n, 2)``."""
    _, which, count = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return np.asarray(count[which])


def _by_codes(release: Release, publish: Callable[[sparse.csr_array], IntArray]) -> Outcome:
    """Is there exactly one user whom the published models give a published pair of codes?"""
    inside, outside = release.histories[release.inside], release.histories[release.outside]
    said = publish(inside)
    own, others = (_fits(said, release.codes(histories)) == 1 for histories in (inside, outside))
    return Outcome(Tally.of(own), Tally.of(others, _alike(said)), _by_size(inside))


def _alike(records: NDArray[np.generic]) -> IntArray:
    """A number for each of some records ``(n, k)``: equal ones make one predicate.

    That concerns users left out. In the release a repeated predicate isolates nobody, and how many users are isolated
    varies about as much as if they were independent.
    """
    return np.asarray(np.unique(records, axis=0, return_inverse=True)[1])


def _fits(predicates: IntArray, codes: IntArray) -> IntArray:
    """How many of the codes ``(n, 2)`` equal each predicate ``(k, 2)``."""
    width = int(max(predicates.max(), codes.max())) + 1
    keys, asked = (pairs[:, 0] * width + pairs[:, 1] for pairs in (codes, predicates))
    return np.asarray(np.bincount(keys, minlength=int(asked.max()) + 1)[asked])


def _by_embeddings(release: Release) -> Outcome:
    """Is there exactly one user whom the published models put next to a published record?"""
    inside, outside = release.histories[release.inside], release.histories[release.outside]
    said, others = release.embeddings(inside), release.embeddings(outside)
    reach = _NEAR * np.asarray(cKDTree(said).query(said, k=2)[0])[:, 1]

    def alone(among: FloatArray) -> NDArray[np.bool_]:
        return np.asarray(np.asarray(cKDTree(among).query_ball_point(said, reach, return_length=True)) == 1)

    return Outcome(Tally.of(alone(said)), Tally.of(alone(others), _alike(said)), _by_size(inside))


def _by_size(histories: sparse.csr_array) -> Tally:
    """Nothing published: a predicate on the number of a user's rows, for each user."""
    sizes = np.diff(histories.indptr)
    return Tally.of(np.bincount(sizes)[sizes] == 1)


def _by_scores(release: Release) -> Outcome:
    """Is there exactly one user who has both of two items that score together beyond what each scores?"""
    inside, outside = release.histories[release.inside], release.histories[release.outside]
    pool = release.pool
    counts = np.asarray(inside[:, pool].sum(axis=0)).ravel()
    rare = pool[np.argsort(counts, kind="stable")][:ASKED]
    single = sparse.csr_array((np.ones(len(rare)), (np.arange(len(rare)), rare)), shape=(len(rare), inside.shape[1]))
    shown = RECORDS[SCORES](release, single, pool)
    excess = shown - shown.mean(0) - shown.mean(1, keepdims=True) + shown.mean()
    found = _pairs(excess, rare, pool)
    # nothing published: two items of which, by their popularity, one user should have both
    share = counts / max(len(release.inside), 1)
    expected = np.outer(share, share) * len(release.inside)
    blind = _pairs(-np.abs(np.log(np.maximum(expected, 1e-12))), pool, pool)
    return Outcome(_isolated(inside, found), _isolated(outside, found), _isolated(inside, blind))


def _pairs(score: FloatArray, left: IntArray, right: IntArray) -> IntArray:
    """The pairs of items ``(PREDICATES, 2)`` that score highest, none twice."""
    order = np.argsort(-score, axis=None, kind="stable")[: 4 * PREDICATES + len(left)]
    row, column = np.unravel_index(order, score.shape)
    pairs = np.sort(np.stack([left[row], right[column]], axis=1), axis=1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    _, first = np.unique(pairs, axis=0, return_index=True)
    return np.asarray(pairs[np.sort(first)][:PREDICATES])


def _isolated(histories: sparse.csr_array, pairs: IntArray) -> Tally:
    """Pairs of items that exactly one history has both of."""
    columns = histories.tocsc()
    both = columns[:, pairs[:, 0]].multiply(columns[:, pairs[:, 1]])
    return Tally.of(np.asarray(both.sum(axis=0)).ravel() == 1)
