"""Names of stages and views: what a run computes, and who sees it."""

from __future__ import annotations

from fedmm_secure.config import Config

CATALOGUE = "catalogue"
COUNTS, EMBEDDING, QUANTIZER, CTR, REFINEMENT = "counts", "embedding", "quantizer", "ctr", "refinement"
EVALUATION = "evaluation"
SHARED_COUNTS, SHARED_GRAM = "shared-counts", "shared-gram"  # sums over a catalogue that markets share
SUMMED = (SHARED_COUNTS, SHARED_GRAM)
HEAD = "head"  # of all markets, without DP: it has no part in a budget
MODEL, ITEM_CODES, USER_CODES = "quantizer-model", "item-codes", "user-codes"
STAGES = (CATALOGUE, COUNTS, *SUMMED, EMBEDDING, QUANTIZER, CTR, EVALUATION)
PUBLISHING = (CATALOGUE, COUNTS, EMBEDDING, MODEL, ITEM_CODES, CTR, USER_CODES, EVALUATION)

SERVER_VIEW = "server"
DECRYPTED_VIEWS = ("market", "collusion", "consumer", "release")
VIEWS = (SERVER_VIEW, *DECRYPTED_VIEWS)
ALL_VIEWS = (*VIEWS, "profile")
RELEASED = ("release",)
# by protection level, the views that a run claims a guarantee for
CLAIMS = {
    "federation": ("server", "market", "collusion"),
    "release": ("server", "market", "collusion", "consumer", "release"),
}

# said of every sum that all markets contribute to, and that has one noise: nobody joins accounts, so nobody counts them
SEVERAL_MARKETS = "unit: a user's rows in one market; who has accounts in k markets has group privacy k"


def is_summed(config: Config, stage: str) -> bool:
    """Whether a stage releases a sum over all markets, so that its noise is one, which a person in k of them moves k
    times."""
    return stage in SUMMED or (stage == QUANTIZER and config.privacy.distributed_noise)


def decrypted_claims(config: Config) -> list[str]:
    """Views that a run claims a bound for, and that hold more than ciphertexts."""
    return [view for view in CLAIMS[config.privacy.protect] if view in DECRYPTED_VIEWS]


def has_sums(config: Config) -> bool:
    """Whether some stage of a run releases one, so that who has accounts in several markets is protected less."""
    return bool(config.data.shared_items) or config.privacy.distributed_noise


def scheduled(config: Config) -> tuple[tuple[str, int], ...]:
    """Stages whose results are summed over markets, in order, each with its number of rounds."""
    summed = [(stage, 1) for stage in SUMMED] if config.data.shared_items else []
    head = [(HEAD, config.head.rounds)] if config.head.trees else []
    return (*summed, *((seed_stage(QUANTIZER, seed), config.federation.rounds) for seed in config.seed), *head)


def seed_stage(group: str, seed: int) -> str:
    """Name of a stage that is repeated for every seed.

    >>> seed_stage(QUANTIZER, 0)
    'quantizer/0'
    """
    return f"{group}/{seed}"
