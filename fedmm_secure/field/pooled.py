"""The centralised model: one network on the rows of all markets in one place, which federations do without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from fedmm_secure.config import Config
from fedmm_secure.ctr.dataset import ExampleSource, Labelled
from fedmm_secure.ctr.features import Features, FeatureSchema, PairFeatures
from fedmm_secure.ctr.models.neural import NeuralChoices, NeuralModel, network_kind
from fedmm_secure.ctr.trainer import Fit
from fedmm_secure.data.market import IntArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.data.shared_items import shared_positions
from fedmm_secure.field.rounds import Traffic
from fedmm_secure.randomness import derive_seed
from fedmm_secure.storage.encoding import arrays_bytes

MARKET = "market"


@dataclass(frozen=True)
class Placement:
    """Where a market's categories stand among those of all.

    Attributes:
        number: of the market, a category of its own.
        codes: for each of the market's fields, place of each of its values, ``(cardinality,)``.
    """

    number: int
    codes: tuple[IntArray, ...]

    def features(self, found: Features) -> Features:
        """Of the market's pairs, as the model of all markets takes them."""
        columns = [codes[found.categories[:, field]] for field, codes in enumerate(self.codes)]
        columns.append(np.full(len(found), self.number))
        return Features(np.stack(columns, axis=1), found.numbers)

    def examples(self, found: Labelled) -> Labelled:
        """Of the market, as the model of all markets takes them."""
        return Labelled(self.features(found.features), found.label)


class PlacedFeatures:
    """Features of a market's pairs, as the model of all markets takes them."""

    def __init__(self, builder: PairFeatures, place: Placement, schema: FeatureSchema) -> None:
        self._builder, self._place, self._schema = builder, place, schema

    def schema(self) -> FeatureSchema:
        """That of all markets."""
        return self._schema

    def __call__(self, user: IntArray, item: IntArray) -> Features:
        """Features of pairs ``(n,)``, ``(n,)``."""
        return self._place.features(self._builder(user, item))


def pool(
    config: Config,
    markets: Mapping[str, PreparedMarket],
    fits: Mapping[str, Fit],
    choices: NeuralChoices,
    seed: int,
    model_type: type[NeuralModel] = NeuralModel,
) -> dict[str, Fit]:
    """One model on the examples of all markets: the same for each of them, with a builder of the market's own.

    Item ids that mean the same everywhere share a row of the table; all others are a market's own. The market is the
    last category.
    """
    schemas = {name: fit.builder.schema() for name, fit in fits.items()}
    first = next(iter(schemas.values()))
    sizes = [0] * len(first.category_names)
    codes: dict[str, list[IntArray]] = {name: [] for name in fits}
    for field, what in enumerate(first.category_names):
        joined = what == "item_id" and config.data.shared_items
        for name, schema in schemas.items():
            if joined:
                codes[name].append(shared_positions(config.data, markets[name].market))
                sizes[field] = config.data.shared_size
            else:
                codes[name].append(sizes[field] + np.arange(schema.cardinalities[field]))
                sizes[field] += schema.cardinalities[field]
    schema = FeatureSchema((*first.category_names, MARKET), (*sizes, len(fits)), first.number_names)
    places = {name: Placement(number, tuple(codes[name])) for number, name in enumerate(fits)}
    sources = ExampleSource([partial(_draw, fit.source, places[name]) for name, fit in fits.items()])
    refits = [partial(_draw, fit.refit, places[name]) for name, fit in fits.items() if fit.refit is not None]
    valid = ExampleSource([partial(_valid, fit, places[name]) for name, fit in fits.items()]).draw(0)
    model = model_type(network_kind(config.field.model), schema, choices, derive_seed("pooled", seed))
    refit = ExampleSource(refits) if refits else None
    return {
        name: Fit(model, sources, valid, refit, PlacedFeatures(fit.builder, places[name], schema))
        for name, fit in fits.items()
    }


def _draw(source: ExampleSource, place: Placement, epoch: int) -> Labelled:
    return place.examples(source.draw(epoch))


def _valid(fit: Fit, place: Placement, epoch: int) -> Labelled:
    return place.examples(fit.validation)


def rows_moved(markets: Mapping[str, PreparedMarket]) -> Traffic:
    """What pooling moves, once: user and item of every training and validation row."""
    up = 0
    for prepared in markets.values():
        market, split = prepared.market, prepared.split
        rows = np.concatenate([split.train, split.valid])
        up += len(arrays_bytes({"user": market.user[rows], "item": market.item[rows]}))
    return Traffic(bytes_up=up, bytes_down=0, rounds=1)
