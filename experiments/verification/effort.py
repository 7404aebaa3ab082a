"""What a reader computes again is bounded over a run: a configuration asks for what it likes in few bytes."""

from __future__ import annotations

from experiments.verification.evidence import Evidence
from fedmm_secure.quantization.codes import BLOCK

MOST_CODE_WORK = 2**41  # multiplications for the item codes of all models, some minutes
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
