"""CTR models by family, and as files."""

from __future__ import annotations

import skops.io

from fedmm_secure.config.choices import ModelKind
from fedmm_secure.ctr.features import FeatureSchema
from fedmm_secure.ctr.models.averaged import AveragedModel
from fedmm_secure.ctr.models.boosted import BoostedChoices, BoostedModel
from fedmm_secure.ctr.models.neural import NeuralChoices, NeuralModel
from fedmm_secure.ctr.models.private import PrivateCTR
from fedmm_secure.storage.encoding import tensors_bytes
from fedmm_secure.storage.files import torch_bytes

TrainedModel = NeuralModel | BoostedModel | AveragedModel


def make_model(
    kind: ModelKind, schema: FeatureSchema, choices: NeuralChoices | BoostedChoices, seed: int
) -> NeuralModel | BoostedModel:
    """An unfitted model of a family, with that family's choices."""
    if kind == "boosted" and isinstance(choices, BoostedChoices):
        return BoostedModel(schema, choices, seed)
    if kind != "boosted" and isinstance(choices, NeuralChoices):
        return NeuralModel(kind, schema, choices, seed)
    raise TypeError(f"{kind} does not take {type(choices).__name__}")


def model_bytes(model: TrainedModel | PrivateCTR) -> bytes:
    """A CTR model as a file: skops for trees (no pickle), torch's weights for networks; of an average, by member."""
    if isinstance(model, PrivateCTR):  # published: nothing but its tensors
        return tensors_bytes(model.state_dict())
    members = model.members if isinstance(model, AveragedModel) else (model,)
    if isinstance(members[0], BoostedModel):
        trees = [member.trees_ for member in members if isinstance(member, BoostedModel)]
        return bytes(skops.io.dumps(trees if isinstance(model, AveragedModel) else trees[0]))
    states = [member.state_dict() for member in members if isinstance(member, NeuralModel)]
    return torch_bytes(dict(enumerate(states)) if isinstance(model, AveragedModel) else states[0])
