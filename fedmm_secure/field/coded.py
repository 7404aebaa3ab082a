"""Items as codes by residual k-means, whose vectors markets train together.

After RQFedRec (Han et al., arXiv 2601.18570). Taken over from the paper's abstract, all that was at hand: a server
assigns each item a list of codes by residual k-means; what is trained and averaged are vectors of codes, so that
messages have one size, whatever the number of items, and items of one code learn from each other. What differs:
participants are markets, not users; item vectors are those of the space that markets of a shared catalogue have; a code
is a field of the network instead of a summand of an item's vector; codes are assigned once; and there is one channel,
for there is no text to take semantic codes from, nor a curriculum between two. Hence ``rqfedrec-like``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sklearn.cluster import KMeans

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config.sections import DataConfig
from fedmm_secure.ctr.dataset import ExampleSource, Labelled
from fedmm_secure.ctr.features import Features, FeatureSchema, PairFeatures
from fedmm_secure.ctr.models.neural import NeuralModel
from fedmm_secure.ctr.trainer import Fit
from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.data.shared_items import shared_positions
from fedmm_secure.randomness import derive_seed

ITEM, ITEM_CODE = "item_id", "item_code"
LEVELS, CODES = 3, 64


def residual_codes(vectors: FloatArray, levels: int, size: int, seed: int) -> IntArray:
    """Codes ``(n, levels)`` of vectors ``(n, dim)``: at each level k-means on what the levels before left."""
    rest, found = vectors.copy(), []
    for level in range(levels):
        clusters = min(size, len(np.unique(rest, axis=0)))
        means = KMeans(clusters, n_init=1, random_state=derive_seed("item-codes", level, seed) % 2**32).fit(rest)
        rest -= means.cluster_centers_[means.labels_]
        found.append(means.labels_.astype(np.int64))
    return np.stack(found, axis=1)


def item_codes(
    data: DataConfig, markets: Mapping[str, PreparedMarket], embeddings: Mapping[str, Embedding], seed: int
) -> dict[str, IntArray]:
    """Codes of each market's items ``(n_items, LEVELS)``, the same in all markets that have the item.

    An item's vector is the mean of those that the markets give it; items outside of the catalogue are one.
    """
    places = {name: shared_positions(data, prepared.market) for name, prepared in markets.items()}
    dim = next(iter(embeddings.values())).item_factors_.shape[1]
    size = data.shared_size + 1  # the last place, -1, is that of items outside
    total, count = np.zeros((size, dim)), np.zeros(size)
    for name, place in places.items():
        np.add.at(total, place, embeddings[name].item_factors_)
        np.add.at(count, place, 1.0)
    met = np.flatnonzero(count)
    codes = np.zeros((size, LEVELS), dtype=np.int64)
    codes[met] = residual_codes(total[met] / count[met, None], LEVELS, CODES, seed)
    return {name: codes[place] for name, place in places.items()}


class CodedItems:
    """Features of pairs with an item's codes in place of its id.

    Args:
        builder: of features with ids.
        codes: of the market's items ``(n_items, LEVELS)``.
    """

    def __init__(self, builder: PairFeatures, codes: IntArray) -> None:
        self._builder, self._codes = builder, codes
        self._place = builder.schema().category_names.index(ITEM)

    def schema(self) -> FeatureSchema:
        """Codes stand where the id stood."""
        found, place = self._builder.schema(), self._place
        names = tuple(f"{ITEM_CODE}_{level + 1}" for level in range(LEVELS))
        return FeatureSchema(
            (*found.category_names[:place], *names, *found.category_names[place + 1 :]),
            (*found.cardinalities[:place], *(CODES,) * LEVELS, *found.cardinalities[place + 1 :]),
            found.number_names,
        )

    def features(self, found: Features) -> Features:
        """Of pairs whose features have ids."""
        place, columns = self._place, found.categories
        parts = [columns[:, :place], self._codes[columns[:, place]], columns[:, place + 1 :]]
        return Features(np.concatenate(parts, axis=1), found.numbers)

    def examples(self, found: Labelled) -> Labelled:
        """Likewise, labels as they are."""
        return Labelled(self.features(found.features), found.label)

    def source(self, source: ExampleSource) -> ExampleSource:
        """Likewise, of every epoch."""
        return ExampleSource([lambda epoch: self.examples(source.draw(epoch))])

    def __call__(self, user: IntArray, item: IntArray) -> Features:
        """Features of pairs ``(n,)``, ``(n,)``."""
        return self.features(self._builder(user, item))


def with_item_codes(fit: Fit, codes: IntArray) -> Fit:
    """A market's network on ids as one on its items' codes; raises ``TypeError`` where the model is no network."""
    inputs = CodedItems(fit.builder, codes)
    model = fit.model
    if not isinstance(model, NeuralModel):
        raise TypeError(f"{type(model).__name__} has no vectors of codes")
    return Fit(
        NeuralModel(model.kind, inputs.schema(), model.choices, model.seed),
        inputs.source(fit.source),
        inputs.examples(fit.validation),
        None if fit.refit is None else inputs.source(fit.refit),
        inputs,
    )
