"""What a joining market could train by itself, with and without what the federation's head tells it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fedmm_secure.ctr.dataset import ExampleSource, Labelled
from fedmm_secure.ctr.features import Features, FeatureSchema
from fedmm_secure.ctr.models.boosted import BoostedChoices, BoostedModel
from fedmm_secure.data.market import FloatArray
from fedmm_secure.heads.examples import Examples, MarketExamples
from fedmm_secure.heads.trees import Head
from fedmm_secure.randomness import derive_seed

HEAD_COLUMN = "federated_head"


@dataclass(frozen=True)
class OwnHead:
    """What a market's own head says.

    Attributes:
        test: click probabilities of the test candidates, ``(n,)``.
        validation_auc: AUC of the validation candidates, before validation rows were trained on.
    """

    test: FloatArray
    validation_auc: float


def own_head(examples: MarketExamples, head: Head | None, *stream: str | int) -> OwnHead | None:
    """Boosted trees on the market's own numbers.

    Stopped by validation candidates and refitted with validation rows, as a market's model is in a run.

    Args:
        examples: of the market.
        head: of the federation, whose log-odds are one more number; None for a market on its own.
        stream: names the model's seed.

    Returns:
        None where the rows hold no positive, or no negative, to learn from.
    """
    parts = [*examples.folds, examples.refit, examples.valid]
    if any(len(np.unique(part.label)) < 2 for part in parts):
        return None
    schema = examples.schema
    if head is not None:
        schema = FeatureSchema(schema.category_names, schema.cardinalities, (*schema.number_names, HEAD_COLUMN))
    model = BoostedModel(schema, BoostedChoices(), derive_seed("own-head", *stream))
    folds, refit, valid, test = (
        [_labelled(part, head) for part in group]
        for group in (examples.folds, [examples.refit], [examples.valid], [examples.test])
    )
    model.fit(_source(folds), valid[0], _source([*folds, *refit]))
    return OwnHead(model.predict(test[0].features), model.validation_auc_)


def _labelled(part: Examples, head: Head | None) -> Labelled:
    numbers = part.own.numbers
    if head is not None:
        numbers = np.column_stack([numbers, head.log_odds(part.bins)])
    return Labelled(Features(part.own.categories, numbers), part.label)


def _source(parts: Sequence[Labelled]) -> ExampleSource:
    def constant(part: Labelled) -> Callable[[int], Labelled]:
        return lambda epoch: part

    return ExampleSource([constant(part) for part in parts])
