"""Models of one market, averaged in log-odds: one on the federation's codes, one on codes that it trained alone.

Both see the same other features; a third, in small markets, sees nothing of other markets. Where the shared space says
little of a market's own taste, its own codes hold; where it says much, the first does; their errors are not the same.
Nothing is chosen, so nothing is spent and no validation row is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Self

import numpy as np

from fedmm_secure.ctr.dataset import ExampleSource, Labelled
from fedmm_secure.ctr.features import Features, FeatureSchema, PairFeatures
from fedmm_secure.ctr.models.base import CTRModel, Format
from fedmm_secure.data.market import FloatArray, IntArray

SMALLEST = 1e-6  # probabilities nearer to 0 or 1 have no larger say


class JoinedFeatures:
    """Inputs of several models in one row: their categories, then their numbers, in the order of the builders."""

    def __init__(self, builders: Sequence[PairFeatures]) -> None:
        self._builders = tuple(builders)

    def schema(self) -> FeatureSchema:
        """One schema of all builders, in order."""
        return joined(self.schemas)

    @property
    def schemas(self) -> tuple[FeatureSchema, ...]:
        """Of each builder."""
        return tuple(builder.schema() for builder in self._builders)

    def __call__(self, user: IntArray, item: IntArray) -> Features:
        """Features of pairs ``(n,)``, ``(n,)``."""
        found = [builder(user, item) for builder in self._builders]
        categories, numbers = [one.categories for one in found], [one.numbers for one in found]
        return Features(np.concatenate(categories, axis=1), np.concatenate(numbers, axis=1))


def joined(schemas: Sequence[FeatureSchema]) -> FeatureSchema:
    """One schema of several, in order."""
    names, sizes, numbers = tuple[str, ...](), tuple[int, ...](), tuple[str, ...]()
    for schema in schemas:
        names, sizes = names + schema.category_names, sizes + schema.cardinalities
        numbers += schema.number_names
    return FeatureSchema(names, sizes, numbers)


class AveragedModel(CTRModel):
    """The mean of several models' log-odds; each sees its own columns of ``SideBySide``.

    Args:
        members: models of one family.
        schemas: of each of them.

    Attributes:
        validation_auc_: mean of the members', before their refits.
    """

    def __init__(self, members: Sequence[CTRModel], schemas: Sequence[FeatureSchema]) -> None:
        self.members = tuple(members)
        self._categories = _spans([len(schema.category_names) for schema in schemas])
        self._numbers = _spans([len(schema.number_names) for schema in schemas])

    def fit(self, source: ExampleSource, validation: Labelled, refit: ExampleSource | None) -> Self:
        """Each member by itself, with its own early stopping."""
        source = source.latest_kept()
        for index, member in enumerate(self.members):
            member.fit(self._source(index, source), self._examples(index, validation), None)
        self.validation_auc_ = float(np.mean([member.validation_auc_ for member in self.members]))
        return self if refit is None else self.refit(refit)

    def refit(self, source: ExampleSource) -> Self:
        """Each member by itself, for as long as it took."""
        source = source.latest_kept()
        for index, member in enumerate(self.members):
            member.refit(self._source(index, source))
        return self

    def predict(self, features: Features) -> FloatArray:
        """Click probabilities ``(n,)``."""
        logits = [_logit(member.predict(self._features(index, features))) for index, member in enumerate(self.members)]
        return np.asarray(1.0 / (1.0 + np.exp(-np.mean(logits, axis=0))))

    @property
    def kept_as(self) -> Format:
        """As its members are."""
        return self.members[0].kept_as

    def state_dict(self) -> dict[int, Any]:
        """Of each member, by its place."""
        return {index: member.state_dict() for index, member in enumerate(self.members)}

    def load_state_dict(self, state: dict[int, Any]) -> None:
        """Each member's state, by its place."""
        for index, member in enumerate(self.members):
            member.load_state_dict(state[index])

    def _features(self, index: int, features: Features) -> Features:
        return Features(features.categories[:, self._categories[index]], features.numbers[:, self._numbers[index]])

    def _examples(self, index: int, examples: Labelled) -> Labelled:
        return Labelled(self._features(index, examples.features), examples.label)

    def _source(self, index: int, source: ExampleSource) -> ExampleSource:
        return ExampleSource([lambda epoch: self._examples(index, source.draw(epoch))])


def _spans(widths: Sequence[int]) -> list[slice]:
    ends = list(accumulate(widths))
    return [slice(end - width, end) for width, end in zip(widths, ends, strict=True)]


def _logit(probability: FloatArray) -> FloatArray:
    inside = np.clip(probability, SMALLEST, 1.0 - SMALLEST)
    return np.asarray(np.log(inside / (1.0 - inside)))
