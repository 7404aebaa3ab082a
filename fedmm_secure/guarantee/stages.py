"""Names of stages and views: what a run computes, and who sees it."""

from __future__ import annotations

CATALOGUE = "catalogue"
COUNTS, EMBEDDING, QUANTIZER, CTR, REFINEMENT = "counts", "embedding", "quantizer", "ctr", "refinement"
EVALUATION = "evaluation"
MODEL, ITEM_CODES, USER_CODES = "quantizer-model", "item-codes", "user-codes"
STAGES = (CATALOGUE, COUNTS, EMBEDDING, QUANTIZER, CTR, EVALUATION)
PUBLISHING = (CATALOGUE, COUNTS, EMBEDDING, MODEL, ITEM_CODES, CTR, USER_CODES, EVALUATION)

DECRYPTED_VIEWS = ("market", "collusion", "consumer", "release")
VIEWS = ("server", *DECRYPTED_VIEWS)
ALL_VIEWS = (*VIEWS, "profile")
RELEASED = ("release",)
# by protection level, the views that a run claims a guarantee for
CLAIMS = {
    "federation": ("server", "market", "collusion"),
    "release": ("server", "market", "collusion", "consumer", "release"),
}


def seed_stage(group: str, seed: int) -> str:
    """Name of a stage that is repeated for every seed, e.g. ``quantizer/0``."""
    return f"{group}/{seed}"
