"""What scores accounts: a market's own models, or what a run published of a market and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from scipy import sparse

from fedmm_secure.config import Config
from fedmm_secure.ctr.models.base import predict_pairs
from fedmm_secure.ctr.models.neural import neural_choices
from fedmm_secure.ctr.models.private import PrivateCTR
from fedmm_secure.ctr.private_features import PrivateHistory, latest_items
from fedmm_secure.ctr.private_trainer import user_times
from fedmm_secure.ctr.pseudo_examples import released_builder
from fedmm_secure.data.market import FloatArray, IntArray, Market, history_matrix
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.errors import DataError
from fedmm_secure.federation.closed_run import RunFiles
from fedmm_secure.federation.releases import released_embedding
from fedmm_secure.guarantee.stages import COUNTS, CTR, EMBEDDING, MODEL, seed_stage
from fedmm_secure.quantization.build import model_for
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.results.scoring import load_trained

Score = Callable[[IntArray, IntArray], FloatArray]


class Scorer(Protocol):
    """Scores of accounts.

    Attributes:
        candidates: items that may be recommended, ascending, ``(n,)``.
    """

    @property
    def candidates(self) -> IntArray:
        """Items that may be recommended, ascending."""
        ...

    def on(self, accounts: Market) -> Score:
        """Click probabilities of pairs of these accounts and candidates, by index."""
        ...


class TrainedScorer:
    """A market's own models, all seeds; they know the market's rows, and stay with it.

    Args:
        run: what it left of the market.
        config: its configuration.
        prepared: the market's data, that of the run.

    Raises:
        RunDirectoryError: a model is missing.
    """

    def __init__(self, run: RunFiles, config: Config, prepared: PreparedMarket) -> None:
        self._models = [load_trained(run, config, prepared, seed) for seed in config.seed]
        self._by_id = "user_id" in config.ctr.features
        self._market = prepared.market
        self.candidates = prepared.pool.items
        if self._by_id:
            self._users = {name: index for index, name in enumerate(prepared.market.user_ids)}
            self._builders = [found.builder() for found in self._models]
        else:
            self._features = [found.accounts() for found in self._models]

    def on(self, accounts: Market) -> Score:
        """Scores of accounts by the market's own model; raises ``DataError`` where their times are of another kind."""
        if accounts.has_time and accounts.calendar != self._market.calendar:
            unit = "dates" if self._market.calendar else "numbers, or none"
            raise DataError(f"history: the times of market {self._market.name} are {unit}; give the same")
        if self._by_id:
            return self._by_user_id(accounts)
        matrix = history_matrix(accounts, np.arange(accounts.n_rows))
        parts = [
            (found.model, features(matrix, found.bench.history.activity(accounts)))
            for found, features in zip(self._models, self._features, strict=True)
        ]
        return lambda user, item: np.mean(
            [predict_pairs(model, builder, user, item) for model, builder in parts], axis=0
        )

    def _by_user_id(self, accounts: Market) -> Score:
        """A user's embedding was trained with the user's rows: there is none of anybody else."""
        for name in accounts.user_ids:
            if name not in self._users:
                raise DataError(
                    f"user {name!r}: ctr.features has user_id, and such a model cannot score a user that it was not "
                    "trained on"
                )
        index = np.array([self._users[name] for name in accounts.user_ids], dtype=np.int64)
        parts = [(found.model, builder) for found, builder in zip(self._models, self._builders, strict=True)]
        return lambda user, item: np.mean(
            [predict_pairs(model, builder, index[user], item) for model, builder in parts], axis=0
        )


class ReleasedScorer:
    """What ``protect: release`` published of a market: counts, factors, RQ-VAEs, CTR models. No row of anybody's.

    All items of the catalogue are candidates: a pool of items that enough users have would be made of exact counts.

    Args:
        run: what it published of the market.
        config: its configuration.

    Attributes:
        candidates: see ``Scorer``.
        embedding: counts and factors.
        models: CTR model and RQ-VAE of each seed.

    Raises:
        RunDirectoryError: something was not published yet.
    """

    def __init__(self, run: RunFiles, config: Config) -> None:
        self._config = config
        self.embedding = released_embedding(config, run.published_arrays(COUNTS), run.published_arrays(EMBEDDING))
        self.candidates = np.arange(len(self.embedding.counts.values))
        self.models = [self._model(run, seed) for seed in config.seed]

    def on(self, accounts: Market) -> Score:
        """Scores of accounts by what was published; raises ``DataError`` where their times are of another kind."""
        rows = np.arange(accounts.n_rows)
        dated = bool({"shared", "recency"} & set(self._config.ctr.features)) and accounts.has_time
        if dated and not accounts.calendar:
            raise DataError(f"history: the times of market {accounts.name} are dates; give the same")
        active = None  # when the account's items were met, where nobody says when the account met them
        if dated:
            active = user_times(accounts, rows, self._config.privacy.contribution)
        latest = latest_items(accounts.user, accounts.item, accounts.n_users)
        history = PrivateHistory(self.embedding, history_matrix(accounts, rows), latest, active)
        parts = [
            (model, released_builder(self._config.ctr, self.embedding, quantizer, history))
            for model, quantizer in self.models
        ]
        return lambda user, item: np.mean(
            [predict_pairs(model, builder, user, item) for model, builder in parts], axis=0
        )

    def _model(self, run: RunFiles, seed: int) -> tuple[PrivateCTR, RQVAE]:
        quantizer = model_for(self._config, self.embedding)
        quantizer.load_state_dict(run.published_tensors(seed_stage(MODEL, seed)))
        nobody = PrivateHistory(self.embedding, sparse.csr_array((0, len(self.candidates))))
        ctr = self._config.ctr
        schema = released_builder(ctr, self.embedding, quantizer, nobody).schema()
        model = PrivateCTR(ctr.model, schema, neural_choices(ctr), seed)
        model.load_state_dict(run.published_tensors(seed_stage(CTR, seed)))
        return model, quantizer
