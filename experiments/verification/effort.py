"""What a reader computes again is bounded over a run: a configuration asks for what it likes in few bytes."""

from __future__ import annotations

from experiments.verification.evidence import Evidence
from fedmm_secure.guarantee.stages import VIEWS
from fedmm_secure.quantization.codes import BLOCK
from privacy.accounting.ledger_check import prv_work_of

MOST_CODE_WORK = 2**41  # multiplications for the item codes of all models, some minutes
MOST_NUMBERS = 2**29  # that PRV lays out for all ledgers, some minutes; 200 markets of a shipped plan take fewer
_PROBED = 12 * BLOCK  # rows that are computed beside a model's own
_DISTANCE = 32  # multiplications that one distance to a codeword costs beside those of its product


def too_many_codes(evidence: Evidence, items: int) -> bool:
    """Whether codes of so many rows by each of a run's models are more than a reader computes again."""
    quantizer, config = evidence.config.quantizer, evidence.config
    dim = config.embedding.private.dim if config.private_embedding else config.embedding.dim
    encoder = quantizer.hidden_dim * (dim + quantizer.latent_dim)
    distances = (quantizer.global_codes + quantizer.local_codes) * (quantizer.latent_dim + _DISTANCE)
    models = len(evidence.plans) * len(config.seed)
    return models * (items + _PROBED) * (encoder + distances) > MOST_CODE_WORK


def too_many_steps(evidence: Evidence) -> bool:
    """Whether a second accountant takes more for a run's ledgers than a reader composes."""
    return prv_work_of((content.entries for content in evidence.ledgers.values()), VIEWS) > MOST_NUMBERS
