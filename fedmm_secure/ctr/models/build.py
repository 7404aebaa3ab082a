"""CTR models by family, and as files."""

from __future__ import annotations

import skops.io

from fedmm_secure.config.choices import ModelKind
from fedmm_secure.ctr.features import FeatureSchema
from fedmm_secure.ctr.models.boosted import BoostedChoices, BoostedModel
from fedmm_secure.ctr.models.neural import NeuralChoices, NeuralModel
from fedmm_secure.ctr.models.private import PrivateCTR
from fedmm_secure.storage.encoding import tensors_bytes
from fedmm_secure.storage.files import torch_bytes


def make_model(
    kind: ModelKind, schema: FeatureSchema, choices: NeuralChoices | BoostedChoices, seed: int
) -> NeuralModel | BoostedModel:
    """An unfitted model of a family, with that family's choices."""
    if kind == "boosted" and isinstance(choices, BoostedChoices):
        return BoostedModel(schema, choices, seed)
    if kind != "boosted" and isinstance(choices, NeuralChoices):
        return NeuralModel(kind, schema, choices, seed)
    raise TypeError(f"{kind} does not take {type(choices).__name__}")


def model_bytes(model: NeuralModel | BoostedModel | PrivateCTR) -> bytes:
    """A CTR model as a file: skops for trees (no pickle), torch's weights for networks."""
    if isinstance(model, PrivateCTR):  # published: nothing but its tensors
        return tensors_bytes(model.state_dict())
    return bytes(skops.io.dumps(model.trees_)) if isinstance(model, BoostedModel) else torch_bytes(model.state_dict())
