"""Releases of a market that half of its users are left out of, and what is published about users in each.

Whatever is published about a user is a record, and a record says how much the user is drawn to each item: decoded
codes and embeddings by the item factors, scores as they are. So records of all kinds, and of two releases, compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import sparse

from attacks.retraining.pipelines import Retraining, Trained, without_users
from fedmm_secure.data.market import FloatArray, IntArray, history_matrix
from fedmm_secure.quantization.codes import assign_codes, decode
from fedmm_secure.quantization.rqvae import RQVAE
from privacy.mechanisms.randomised_response import randomise
from privacy.mechanisms.randomness import NoiseSource

EPSILON = 8.0  # of randomised codes, where a run publishes none


@dataclass(frozen=True)
class Release:
    """What was published of a market, and about whom.

    Attributes:
        trained: the model, and what it builds on.
        histories: training rows of all users, ``(n_users, n_items)``.
        pool: items that are recommended, ascending.
        inside: users of the release.
        outside: as many users left out of it; both have two rows at least.
        codes_epsilon: of randomised response on users' codes.
    """

    trained: Trained
    histories: sparse.csr_array
    pool: IntArray
    inside: IntArray
    outside: IntArray
    codes_epsilon: float = EPSILON

    @property
    def quantizer(self) -> RQVAE:
        """The RQ-VAE behind the codes; raises ``ValueError`` for a model without codes."""
        if self.trained.coded.quantizer is None:
            raise ValueError("a model without codes publishes none")
        return self.trained.coded.quantizer

    def embeddings(self, histories: sparse.csr_array) -> FloatArray:
        """Embeddings ``(n, dim)`` of histories ``(n, n_items)``."""
        return self.trained.coded.embedding.transform(histories)

    def codes(self, histories: sparse.csr_array) -> IntArray:
        """``(n, 2)``."""
        nobody = self.trained.coded.embedding.item_factors_[:0]
        return assign_codes(self.quantizer, self.embeddings(histories), nobody).user

    def randomised(self, histories: sparse.csr_array) -> IntArray:
        """``(n, 2)``, as a run with ``privacy.user_codes_epsilon`` publishes them."""
        shape, codes = self.quantizer.shape, self.codes(histories)
        pairs = codes[:, 0] * shape.local_codes + codes[:, 1]
        n_pairs = shape.global_codes * shape.local_codes
        found = randomise(pairs, n_pairs, self.codes_epsilon, NoiseSource.from_entropy()).values
        return np.stack([found // shape.local_codes, found % shape.local_codes], axis=1)


Records = Callable[[Release, sparse.csr_array, IntArray], FloatArray]
"""What is published about users with histories ``(n, n_items)``, over items ``(k,)``: ``(n, k)``."""


def _of_codes(codes: Callable[[Release, sparse.csr_array], IntArray]) -> Records:
    def records(release: Release, histories: sparse.csr_array, items: IntArray) -> FloatArray:
        factors = release.trained.coded.embedding.item_factors_[items]
        return np.asarray(decode(release.quantizer, codes(release, histories)) @ factors.T)

    return records


def _of_embeddings(release: Release, histories: sparse.csr_array, items: IntArray) -> FloatArray:
    return np.asarray(release.embeddings(histories) @ release.trained.coded.embedding.item_factors_[items].T)


def _of_scores(release: Release, histories: sparse.csr_array, items: IntArray) -> FloatArray:
    return release.trained.scores(histories, items)


CODES, RANDOMISED, EMBEDDINGS, SCORES = "codes", "randomised codes", "embeddings", "scores"
RECORDS: dict[str, Records] = {
    CODES: _of_codes(Release.codes),
    RANDOMISED: _of_codes(Release.randomised),
    EMBEDDINGS: _of_embeddings,
    SCORES: _of_scores,
}


def published(release: Release) -> list[str]:
    """Which of ``RECORDS`` a release can have."""
    trained = release.trained
    missing = {SCORES} if trained.accounts is None else set()
    if trained.coded.quantizer is None:
        missing |= {CODES, RANDOMISED}
    return [name for name in RECORDS if name not in missing]


def two_releases(retraining: Retraining, seed: int, rng: np.random.Generator) -> dict[str, list[Release]]:
    """By target, a release of either half of the users: who is in one is left out of the other.

    Args:
        retraining: of the market; its configuration says how codes are randomised.
        seed: of initialisation and order.
        rng: halves the users.
    """
    prepared = retraining.prepared
    histories = history_matrix(prepared.market, prepared.split.train)
    users = rng.permutation(np.flatnonzero(np.asarray(histories.sum(axis=1)).ravel() >= 2))
    n = len(users) // 2
    sides = users[:n], users[n : 2 * n]
    return _released(retraining, histories, [sides, sides[::-1]], seed)


def released_again(retraining: Retraining, first: Release, seed: int) -> dict[str, Release]:
    """By target, another release of the same users: initialised, ordered and noised anew."""
    found = _released(retraining, first.histories, [(first.inside, first.outside)], seed)
    return {target: release for target, (release,) in found.items()}


def _released(
    retraining: Retraining, histories: sparse.csr_array, sides: Sequence[tuple[IntArray, IntArray]], seed: int
) -> dict[str, list[Release]]:
    prepared, halves = retraining.prepared, []
    for _, outside in sides:
        kept = np.ones(prepared.market.n_users, dtype=bool)
        kept[outside] = False
        halves.append(without_users(prepared, kept))
    make = partial(
        Release,
        histories=histories,
        pool=prepared.pool.items,
        codes_epsilon=retraining.config.privacy.user_codes_epsilon or EPSILON,
    )
    return {
        target: [
            make(trained, inside=inside, outside=outside)
            for trained, (inside, outside) in zip(models, sides, strict=True)
        ]
        for target, models in retraining.train(halves, seed)
    }


def split_histories(histories: sparse.csr_array, rng: np.random.Generator) -> tuple[sparse.csr_array, sparse.csr_array]:
    """Each history in two halves at random, the first the larger by one where its size is odd."""
    rows = histories.tocoo()
    user, item = rows.coords
    order = np.lexsort((rng.random(len(user)), user))
    start = np.searchsorted(user[order], user[order])
    size = np.bincount(user, minlength=histories.shape[0])[user[order]]
    first = np.arange(len(order)) - start < (size + 1) // 2
    both = []
    for part in (order[first], order[~first]):
        both.append(sparse.csr_array((np.ones(len(part)), (user[part], item[part])), shape=histories.shape))
    return both[0], both[1]
