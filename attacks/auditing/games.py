"""Games of membership against the mechanisms that release something, on data that a worst-case adversary chose.

Each game plays a mechanism of the product, called as the pipeline calls it, once for each canary; a coin decided
whether that was in the data. The data are chosen so that the canary moves the release as far as the sensitivity allows:
a mechanism that adds less noise than its ledger line says, or lets one user contribute more, is then seen from outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from scipy import sparse, stats

from attacks.auditing.laws import Law, Members, Values
from attacks.auditing.played import Played
from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding, ItemCounts, contributions, release_counts, timed
from fedmm_secure.config import ContributionConfig, PrivateEmbeddingConfig
from fedmm_secure.data.market import Market
from privacy.aggregation import PairwiseMasks
from privacy.aggregation.base import Binding
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.dp_svd import GRAM_LEVELS
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.randomness import LEVELS, NoiseSource
from privacy.mechanisms.shared_parts import (
    DIAGONAL,
    OFF_DIAGONAL,
    gram_of_sum,
    gram_part,
    noise_of_sum,
    rows_of_sum,
    rows_part,
)

_ITEMS = 8  # of a Gram matrix, at most
_CLEAR = 40.0  # standard deviations of noise that a sum is away from where its sign is lost


def gaussian(seen: Values, member: Members, noise_multiplier: float, length: float | Values, slack: float) -> Played:
    """Canaries whose one value ``(n,)``, in units of the sensitivity, is normal around ``length`` or 0."""
    law = Law(noise_multiplier)
    normal = law.normal_scores(seen, member, length)
    return Played(member, law.ratio(seen, length), normal - slack, normal, np.square(normal), slack=slack)


def each(member: Members, noise: NoiseSource, show: Callable[[bool, NoiseSource], float]) -> Values:
    """What is shown of every canary ``(n,)``, each with randomness of its own."""
    return np.array([show(bool(present), noise.derive(index)) for index, present in enumerate(member)])


def play_counts(
    choices: ContributionConfig, times: bool, noise_multiplier: float, member: Members, noise: NoiseSource
) -> Played:
    """Noisy counts of a canary who touched every item, at the date that weighs most, and of nobody else.

    With ``times`` the canary is in the counts and in what stands beside them, when they were, at once.
    """
    with_canary, without = _counts_market(choices, 40), _counts_market(choices, 0)
    everyone = np.arange(with_canary.n_rows)
    parts = timed(contributions(with_canary, everyone, choices, noise_multiplier), with_canary, everyone, choices)
    counts, moments = (part.toarray()[0] for part in parts)
    moved = np.concatenate([counts, choices.time_weight * moments]) if times else counts
    length = min(1.0, float(np.linalg.norm(moved)))  # what the canary may move at most
    towards = moved / float(np.linalg.norm(moved))

    def show(present: bool, source: NoiseSource) -> float:
        market = with_canary if present else without
        rows = np.arange(market.n_rows)
        found = release_counts(market, rows, choices, noise_multiplier, source, times=times)
        released = found.values if found.moments is None else np.concatenate([found.values, found.moments])
        return float(released @ towards)

    slack = 2.0 * math.sqrt(len(towards)) / scale(LEVELS)  # noise and contribution, each within a unit of an entry
    return gaussian(each(member, noise, show), member, noise_multiplier, length, slack)


def play_gram(choices: PrivateEmbeddingConfig, noise_multiplier: float, member: Members, noise: NoiseSource) -> Played:
    """Private item factors by a noisy Gram matrix: all eigenvectors and eigenvalues are read, as released.

    There are as many items as factors, so that nothing of the matrix is lost; nobody is in it but the canary.
    """
    n = min(choices.dim, _ITEMS)
    towards = np.full(n, 1.0 / math.sqrt(n))
    embedding = _embedding(choices, n, "gram")
    roots = Grid.of(noise_multiplier, levels=GRAM_LEVELS).of_products()
    length = float(roots.real(roots.cut(towards)) @ towards) ** 2  # a row is cut to a grid, coarser than that of noise

    def show(present: bool, source: NoiseSource) -> float:
        rows = sparse.csr_array(np.ones((1, n)) * present)
        found = embedding.release(rows, noise_multiplier, source)
        return float((found.factors.T @ towards) ** 2 @ found.eigenvalues)

    slack = n / scale(GRAM_LEVELS) + 1e-9  # weights are u uᵀ, of sum n; eigenvalues to double precision
    return gaussian(each(member, noise, show), member, noise_multiplier, length, slack)


def play_subspace(
    choices: PrivateEmbeddingConfig, noise_multiplier: float, member: Members, noise: NoiseSource
) -> Played:
    """Private item factors by noisy subspace iteration, which releases the last of several steps.

    One item alone; a crowd, who has it too, keeps the noisy sum above 0, so that its length is its value.
    """
    crowd = math.ceil(_CLEAR * noise_multiplier) + 1
    embedding = _embedding(choices, 1, "subspace")
    grid = Grid.of(noise_multiplier)
    length = float(grid.real(grid.cut(np.ones(1)))[0])

    def show(present: bool, source: NoiseSource) -> float:
        rows = sparse.csr_array(np.ones((crowd + present, 1)))
        return float(embedding.release(rows, noise_multiplier, source).eigenvalues[0]) - crowd * length

    slack = 1.0 / scale(LEVELS) + 1e-9
    return gaussian(each(member, noise, show), member, noise_multiplier, length, slack)


def play_shared_counts(norm: float, honest: int, member: Members, noise: NoiseSource) -> Played:
    """Summed counts of ``honest`` markets, the canary in one of them; colluders took their parts off.

    The canary moves one coordinate by the whole of a user's contribution.
    """
    nobody, canary = sparse.csr_array((1, 8)), sparse.csr_array(([1.0], ([0], [3])), shape=(1, 8))

    def show(present: bool, source: NoiseSource) -> float:
        parts = [
            rows_part(canary if present and not market else nobody, norm, source.derive(market))
            for market in range(honest)
        ]
        return float(rows_of_sum(np.sum([part.values for part in parts], axis=0), norm)[3])

    slack = (honest + 1.0) / (math.sqrt(honest) * scale(LEVELS))
    return gaussian(each(member, noise, show), member, noise_of_sum(norm, honest), 1.0, slack)


def play_shared_gram(norm: float, honest: int, member: Members, noise: NoiseSource) -> Played:
    """The summed Gram matrix of ``honest`` markets, likewise; the canary's row is spread over several items."""
    row = np.zeros((1, 8))
    row[0, 2:6] = 0.5
    nobody, canary = sparse.csr_array((1, 8)), sparse.csr_array(row)
    spread = np.full((8, 8), DIAGONAL / OFF_DIAGONAL)
    np.fill_diagonal(spread, 1.0)
    once = np.triu(np.outer(row[0], row[0]) / spread)  # each pair once, in units of its noise
    towards = once / np.linalg.norm(once)
    roots = Grid(math.sqrt(DIAGONAL / norm), math.floor(norm / DIAGONAL))
    cut = roots.real(roots.cut(row[0]))
    length = float((towards * np.outer(cut, cut) / spread).sum())

    def show(present: bool, source: NoiseSource) -> float:
        parts = [
            gram_part(canary if present and not market else nobody, norm, source.derive(market))
            for market in range(honest)
        ]
        total = gram_of_sum(np.sum([part.values for part in parts], axis=0), norm, 8)
        return float((towards * total / spread).sum())

    slack = math.sqrt(honest) * float(towards.sum()) / scale(LEVELS) + 1e-9
    return gaussian(each(member, noise, show), member, noise_of_sum(norm, honest), length, slack)


def play_masks(bits: int, member: Members, noise: NoiseSource) -> Played:
    """Masked vectors of two rounds, opened by a server that colludes with a key holder.

    The canary moves the second vector by one unit in every coordinate; the first is known. Masks that are fresh leave
    nothing to see: a coordinate differs by one as often as by anything else, whoever was in.
    """
    length, modulus = 64, 2**bits

    def show(present: bool, source: NoiseSource) -> float:
        honest = PairwiseMasks("a", _mask_key(source.derive("a")))
        honest.meet({"b": _mask_key(source.derive("b")).public_key().public_bytes_raw()})
        values = source.derive("values").integers(1000, length).astype(np.uint64)
        opened = [
            (values + move + honest.draw(Binding("run", "quantizer/0", round, 0, ("a", "b")), length, bits)) % modulus
            for round, move in ((0, np.uint64(0)), (1, np.uint64(present)))
        ]
        return float((((opened[1] - opened[0]) % modulus) == 1).sum())

    seen = each(member, noise, show)
    chance, ties = stats.binom(length, 1.0 / modulus), noise.derive("ties").uniforms(len(member))
    more, as_many = chance.sf(seen), chance.pmf(seen)
    # ties are broken by chance: then normal scores of a count are exact
    normal = stats.norm.isf(np.clip(more + ties * as_many, 1e-300, 1.0 - 1e-16))
    return Played(member, seen, normal, normal, np.square(normal))


def _mask_key(source: NoiseSource) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(source.words(4).tobytes())


def _embedding(choices: PrivateEmbeddingConfig, n_items: int, method: str) -> DPSVDEmbedding:
    chosen = choices.model_copy(update={"method": method, "max_items": n_items})
    return DPSVDEmbedding(ItemCounts(np.full(n_items, 1e6), 1.0), chosen)


def _counts_market(choices: ContributionConfig, n_rows: int) -> Market:
    """A market of one user, who has the first ``n_rows`` of forty items."""
    n_items, day = 40, choices.reference_date
    moment = 0 if day is None else int(np.datetime64(day, "ns").astype(np.int64))
    return Market(
        name="audit",
        user_ids=np.arange(1).astype(object),
        item_ids=np.arange(n_items).astype(object),
        user=np.zeros(n_rows, dtype=np.int64),
        item=np.arange(n_rows),
        rating=np.full(n_rows, np.nan),
        time=np.full(n_rows, moment),
        calendar=True,
    )
