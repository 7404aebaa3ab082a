"""A pooled network whose items have a vector of their own in each market (Bhargav et al., ECIR 2023, arXiv 2302.07130).

As there, an item's embedding is multiplied element by element with a market's, which is learned; all else is shared by
all markets. What differs: the network is that of the other baselines instead of GMF, MLP and NeuMF; a market's vector
is added to 1, so that training starts from the pooled network; and it is a field of the network besides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedmm_secure.ctr.models.networks import NeuralCTR
from fedmm_secure.ctr.models.neural import NeuralModel


class MarketAwareCTR(NeuralCTR):
    """A network whose last field is the market.

    Attributes:
        item: place of the field that the market's vector is multiplied with.
    """

    item: int

    def embed(self, index: Tensor) -> Tensor:
        """Embeddings ``(n, n_fields, dim)``, those of items as they are in the market."""
        fields = super().embed(index)
        before, item, after = fields[:, : self.item], fields[:, self.item, None], fields[:, self.item + 1 :]
        return torch.cat([before, item * (1.0 + fields[:, -1:]), after], dim=1)


class MarketAwareModel(NeuralModel):
    """Trains a ``MarketAwareCTR``; its inputs have an item's id, and the market as the last category."""

    network_type = MarketAwareCTR

    def new_network(self, generator: torch.Generator) -> NeuralCTR:
        """An untrained network for the model's schema."""
        network = super().new_network(generator)
        if isinstance(network, MarketAwareCTR):
            network.item = self.schema.category_names.index("item_id")
        return network
