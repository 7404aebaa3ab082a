"""Score pairs with what a finished run left in its directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding, ItemCounts
from fedmm_secure.config import Config
from fedmm_secure.config.choices import MODELS
from fedmm_secure.ctr.build import market_trainer, private_trainer
from fedmm_secure.ctr.features import PairFeatures
from fedmm_secure.ctr.models.base import ClickModel, CTRModel, predict_pairs
from fedmm_secure.ctr.models.build import untrained
from fedmm_secure.ctr.recipes import Recipe, configured_recipe
from fedmm_secure.ctr.trainer import AccountFeatures, MarketTrainer
from fedmm_secure.data.market import FloatArray, IntArray, history_matrix
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.errors import DataError, RunDirectoryError
from fedmm_secure.federation.closed_run import ClosedRun, RunFiles
from fedmm_secure.federation.releases import factors_from_arrays, private_store
from fedmm_secure.federation.shared_catalogue import shared_dp_svd, shared_svd, totals_of_run
from fedmm_secure.guarantee.stages import COUNTS, EMBEDDING
from fedmm_secure.quantization.build import model_for
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.randomness import derive_seed
from fedmm_secure.results.artefacts import load_state
from fedmm_secure.storage.layout import RunDirectory


class MarketScorer:
    """The configured CTR model of one market, all seeds, as the run left it.

    Args:
        run: directory of a finished run.
        config: its configuration.
        prepared: the market's data, that of the run.

    Raises:
        RunDirectoryError: a model is missing, or not the one that the run was closed with.
    """

    def __init__(self, run: Path, config: Config, prepared: PreparedMarket) -> None:
        self._config, self._prepared = config, prepared
        market = prepared.market
        self._users = {str(name): index for index, name in enumerate(market.user_ids)}
        self._items = {str(name): index for index, name in enumerate(market.item_ids)}
        closed = ClosedRun(run, market.name)
        self._models = [_load_model(closed, config, prepared, seed) for seed in config.seed]

    def __call__(self, users: Sequence[str], items: Sequence[str]) -> FloatArray:
        """Click probabilities ``(n,)``, the mean over seeds; NaN for items outside the candidate pool.

        Under ``protect: release`` the candidates are the whole catalogue.

        Raises:
            DataError: a user or an item that the market does not have.
        """
        user, item = self._index("user", self._users, users), self._index("item", self._items, items)
        if len(user) != len(item):
            raise DataError(f"{len(user)} users and {len(item)} items; pairs are expected")
        # of a released model a pool would be made of exact counts: whoever asks would learn which items have few rows
        private = self._config.private_ctr
        known = np.ones(len(item), dtype=bool) if private else self._prepared.pool.contains(item)
        found = np.full(len(item), np.nan)
        if known.any():
            scores = [predict_pairs(model, builder, user[known], item[known]) for model, builder in self._models]
            found[known] = np.mean(scores, axis=0)
        return found

    def _index(self, what: str, known: dict[str, int], names: Sequence[str]) -> IntArray:
        missing = [str(name) for name in names if str(name) not in known]
        where = {"user": "training data", "item": "catalogue"}
        if missing:
            raise DataError(f"market {self._prepared.market.name}: no {what} {missing[0]!r} among its {where[what]}")
        return np.array([known[str(name)] for name in names], dtype=np.int64)


def load_embedding(run: RunFiles, config: Config, prepared: PreparedMarket, *, refined: bool) -> Embedding:
    """What the rounds worked on, or with ``refined`` what the market's own codes are computed from."""
    if config.data.shared_items and not config.private_embedding:
        return shared_svd(totals_of_run(run, config), prepared)
    if refined or not config.private_embedding:
        return fit_embedding(prepared, config.embedding)
    store = private_store(run.directory, prepared.market.name)
    counts = ItemCounts.from_arrays(run.drawn(_existing(store.path(COUNTS)), COUNTS))
    if config.data.shared_items:
        return shared_dp_svd(totals_of_run(run, config), prepared, counts)
    kept = run.drawn(_existing(store.path(EMBEDDING)), EMBEDDING)
    embedding = DPSVDEmbedding(counts, config.embedding.private)
    return embedding.set_factors(factors_from_arrays(kept), history_matrix(prepared.market, prepared.split.train))


def load_quantizer(path: Path, run: RunFiles, config: Config, embedding: Embedding) -> RQVAE:
    """An RQ-VAE as ``save_quantizer`` kept it in a run."""
    model = model_for(config, embedding)
    load_state(model, run.file(_existing(path)), path)
    return model


@dataclass(frozen=True)
class TrainedCTR:
    """A market's own CTR model of one seed, as a run left it, and what its features are made from."""

    model: CTRModel
    bench: MarketTrainer
    recipe: Recipe
    quantizer: RQVAE
    seed: int

    def builder(self) -> PairFeatures:
        """Features of the market's users, from their training rows."""
        return self.bench.inputs(self.recipe, self.quantizer, self.seed)

    def accounts(self) -> AccountFeatures:
        """Features of accounts that the market's rows need not know."""
        return self.bench.accounts(self.recipe, self.quantizer, self.seed)


def load_trained(run: RunFiles, config: Config, prepared: PreparedMarket, seed: int) -> TrainedCTR:
    """A CTR model that stays in the market; raises ``RunDirectoryError`` where it is missing."""
    name = prepared.market.name
    embedding, quantizer = _load_codes(run, config, prepared, seed)
    bench, recipe = market_trainer(prepared, embedding, config), configured_recipe(config)
    for kind in bench.beside(recipe):
        path = RunDirectory(run.directory).quantizer(name, seed, kind=kind)
        bench.own_quantizers[kind, seed] = load_quantizer(path, run, config, bench.own_embedding)
    choices = bench.grid(recipe.kind)[0]
    model = untrained(recipe.kind, bench.inputs(recipe, quantizer, seed), choices, derive_seed("ctr", name, seed))
    path = _existing(RunDirectory(run.directory).ctr(name, seed, MODELS[recipe.kind].suffix))
    model.read(run.file(path), path)
    return TrainedCTR(model, bench, recipe, quantizer, seed)


def _load_codes(run: RunFiles, config: Config, prepared: PreparedMarket, seed: int) -> tuple[Embedding, RQVAE]:
    name = prepared.market.name
    layout = RunDirectory(run.directory)
    path = layout.quantizer(name, seed, kind="refined")
    refined = path.is_file()
    embedding = load_embedding(run, config, prepared, refined=refined)
    if config.ctr.codes == "local":
        path = layout.quantizer(name, seed, kind="own")
    elif not refined:
        path = layout.quantizer(name, seed)
    return embedding, load_quantizer(path, run, config, embedding)


def _load_model(run: RunFiles, config: Config, prepared: PreparedMarket, seed: int) -> tuple[ClickModel, PairFeatures]:
    if not config.private_ctr:
        trained = load_trained(run, config, prepared, seed)
        return trained.model, trained.builder()
    embedding, quantizer = _load_codes(run, config, prepared, seed)
    path = _existing(RunDirectory(run.directory).ctr(prepared.market.name, seed))
    return private_trainer(prepared, embedding, config).load(run.file(path), path, quantizer, seed)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise RunDirectoryError(f"{path}: missing; the run has not finished (fedmm run --resume)")
    return path
