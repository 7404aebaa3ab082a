"""Constants of a released CTR model: what private releases make of invented users, and no number of anybody's rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from experiments.verification.effort import too_many_codes
from experiments.verification.equality import same_arrays
from experiments.verification.evidence import Evidence
from experiments.verification.platform import same_machine
from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding
from fedmm_secure.config import Config
from fedmm_secure.ctr.models.private import standardisation
from fedmm_secure.ctr.pseudo_examples import FEWEST, own_seed, pseudo_examples
from fedmm_secure.federation.releases import released_embedding
from fedmm_secure.guarantee.publications import Publications
from fedmm_secure.guarantee.stages import COUNTS, CTR, EMBEDDING, MODEL, seed_stage
from fedmm_secure.quantization.build import model_of
from privacy.accounting.ledger_check import Finding
from privacy.arrays import Array

# A configuration asks for what it likes: what a reader computes is bounded, of one model and of all of a run together.
MOST_PAIRS = 250_000  # of pseudo-users and items
MOST_VALUES = 2**25  # of the largest arrays of a model, a quarter of a gigabyte
MOST_WORK = 2**29  # in numbers of a pair, of which a few million take a second
_PAIR = 256  # such numbers, for what a pair costs by itself: it may be drawn two hundred times
_APART = 0.1  # of a number's spread


def standardisation_findings(evidence: Evidence, market: str, publications: Publications) -> Iterator[Finding]:
    """Centre and spread of a model's numbers are those of the pseudo-users that its market's releases give."""
    config, read = evidence.config, publications.read
    if not config.private_ctr or COUNTS not in read or EMBEDDING not in read:
        return  # nothing is released, or what is missing is found elsewhere
    embedding = released_embedding(config, dict(read[COUNTS]), dict(read[EMBEDDING]))
    what = f"market {market}: standardisation of its CTR models"
    models, rows = len(evidence.plans) * len(config.seed), len(embedding.item_factors_) + _users(config)
    if _too_many(config, embedding, models=models) or too_many_codes(evidence, rows):
        evidence.unchecked.append(f"{what}: not computed again, for it takes too many pseudo-users or items")
        return
    for seed in config.seed:
        model, ctr = read.get(seed_stage(MODEL, seed)), read.get(seed_stage(CTR, seed))
        if model is None or ctr is None:
            continue
        wanted = _constants(config, market, seed, embedding, model)
        if all(same_arrays(values, ctr[name], exact=True) for name, values in wanted.items()):
            continue
        if same_machine(evidence) or not _alike(wanted, ctr):
            where = f"{evidence.messages.directory} {seed_stage(CTR, seed)}"
            yield Finding(where, f"{what}: not what its releases make of pseudo-users")
        else:
            evidence.unchecked.append(
                f"{what}: not what its releases give on this machine, which is not of the run's kind"
            )


def _users(config: Config) -> int:
    """Pseudo-users that are drawn."""
    return max(config.privacy.pseudo_users, FEWEST)


def _too_many(config: Config, embedding: DPSVDEmbedding, *, models: int) -> bool:
    """Whether the models of a run take more than a reader gives them; said before anything is drawn."""
    pairs = _users(config) * (1 + config.data.negatives_per_positive)
    items, dim = len(embedding.items_), embedding.item_factors_.shape[1]
    values = max(pairs * dim, items**2, embedding.item_factors_.size)
    work = models * (pairs * (_PAIR + dim) + items**2 // 4)
    return pairs > MOST_PAIRS or values > MOST_VALUES or work > MOST_WORK


def _alike(wanted: Mapping[str, Array], found: Mapping[str, Array]) -> bool:
    """Whether other pseudo-users may have given it: one whose code ties otherwise changes who is drawn after."""
    return all(
        bool((np.abs(values - found[name]) <= _APART * wanted["spread"]).all()) for name, values in wanted.items()
    )


def _constants(
    config: Config, market: str, seed: int, embedding: DPSVDEmbedding, state: Mapping[str, Array]
) -> dict[str, Array]:
    quantizer, count = model_of(config, state), config.privacy.pseudo_users
    pseudo = pseudo_examples(embedding, quantizer, config.data, config.ctr, count, own_seed(market, seed))
    return dict(zip(("centre", "spread"), standardisation(pseudo), strict=True))
