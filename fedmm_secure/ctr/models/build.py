"""CTR models by name: the families, and models for given inputs."""

from __future__ import annotations

from pkgutil import resolve_name

from fedmm_secure.config.choices import MODELS, ModelKind
from fedmm_secure.ctr.features import PairFeatures
from fedmm_secure.ctr.models.averaged import AveragedModel, JoinedFeatures
from fedmm_secure.ctr.models.base import Choices, CTRModel, Family


def family_of(kind: ModelKind) -> Family:
    """The family that makes a kind of model."""
    found: Family = resolve_name(MODELS[kind].family)
    return found


def untrained(kind: ModelKind, inputs: PairFeatures, choices: Choices, seed: int) -> CTRModel:
    """A model for given inputs, with its family's choices: two, averaged, where the inputs are of two."""
    make = family_of(kind).make
    if not isinstance(inputs, JoinedFeatures):
        return make(kind, inputs.schema(), choices, seed)
    return AveragedModel([make(kind, schema, choices, seed) for schema in inputs.schemas], inputs.schemas)
