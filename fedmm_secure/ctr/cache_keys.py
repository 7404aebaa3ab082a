"""What a model's result depends on, for the cache that runs share."""

from __future__ import annotations

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.config import Config
from fedmm_secure.ctr.recipes import Recipe
from fedmm_secure.data.prepare import PreparedMarket, market_digest
from fedmm_secure.devices import device_record
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.storage.digests import arrays_digest


def bench_inputs(config: Config, prepared: PreparedMarket) -> dict[str, object]:
    """What every model of a market depends on, codes aside: the data, and how examples are made and models fitted."""
    data = config.data.model_dump(mode="json", exclude={"markets", "root", "synthetic", "on_bad_rows"})
    ctr = config.ctr.model_dump(mode="json", exclude={"model", "features", "baselines", "training"})
    return {"market": market_digest(prepared), "data": data, "ctr": ctr, "device": device_record(config.device)}


def code_inputs(config: Config, embedding: Embedding, recipe: Recipe, federated: RQVAE) -> dict[str, object]:
    """What a model's codes depend on: the embedding, and an RQ-VAE's weights, or how a local one is trained."""
    found: dict[str, object] = {"embedding": arrays_digest(embedding.user_factors_, embedding.item_factors_)}
    if recipe.codes == "local":
        return found | local_inputs(config)
    weights = federated.state_dict()
    return found | {"quantizer": arrays_digest(*(weights[name].numpy() for name in sorted(weights)))}


def local_inputs(config: Config) -> dict[str, object]:
    """How a market trains codes alone."""
    training = {"rounds": config.federation.rounds, "local_epochs": config.federation.local_epochs}
    return {"quantizer": config.quantizer.model_dump(mode="json"), **training}
