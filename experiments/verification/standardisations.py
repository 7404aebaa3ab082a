"""Constants of a released CTR model: what private releases make of invented users, and no number of anybody's rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from experiments.verification.equality import same_arrays
from experiments.verification.evidence import Evidence
from experiments.verification.platform import same_machine
from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding
from fedmm_secure.config import Config
from fedmm_secure.config.privacy import GRAM_LIMIT
from fedmm_secure.ctr.models.private import standardisation
from fedmm_secure.ctr.pseudo_examples import own_seed, pseudo_examples
from fedmm_secure.federation.releases import released_embedding
from fedmm_secure.guarantee.publications import Publications
from fedmm_secure.guarantee.stages import COUNTS, CTR, EMBEDDING, MODEL, seed_stage
from fedmm_secure.quantization.build import model_of
from privacy.accounting.ledger_check import Finding
from privacy.arrays import Array

MOST_PAIRS = 250_000  # of pseudo-users and items, and GRAM_LIMIT items: a configuration may ask for many more
_APART = 0.1  # of a number's spread


def standardisation_findings(evidence: Evidence, market: str, publications: Publications) -> Iterator[Finding]:
    """Centre and spread of a model's numbers are those of the pseudo-users that its market's releases give."""
    config, read = evidence.config, publications.read
    if not config.private_ctr or COUNTS not in read or EMBEDDING not in read:
        return  # nothing is released, or what is missing is found elsewhere
    embedding = released_embedding(config, dict(read[COUNTS]), dict(read[EMBEDDING]))
    what = f"market {market}: standardisation of its CTR models"
    pairs = config.privacy.pseudo_users * (1 + config.data.negatives_per_positive)
    if pairs > MOST_PAIRS or len(embedding.items_) > GRAM_LIMIT:
        evidence.unchecked.append(f"{what}: not computed again, for it takes too many pseudo-users or items")
        return
    exact = same_machine(evidence)
    for seed in config.seed:
        model, ctr = read.get(seed_stage(MODEL, seed)), read.get(seed_stage(CTR, seed))
        if model is None or ctr is None:
            continue
        wanted = _constants(config, market, seed, embedding, model)
        if all(same_arrays(values, ctr[name], exact=exact) for name, values in wanted.items()):
            continue
        if exact or not _alike(wanted, ctr):
            where = f"{evidence.messages.directory} {seed_stage(CTR, seed)}"
            yield Finding(where, f"{what}: not what its releases make of pseudo-users")
        else:
            evidence.unchecked.append(
                f"{what}: not what its releases give on this machine, which is not of the run's kind"
            )


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
