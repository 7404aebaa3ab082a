"""A CTR model that may be released: pre-trained on pseudo-users, trained with user-level DP-SGD on users' bags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding, when_met
from fedmm_secure.config import ContributionConfig
from fedmm_secure.config.privacy import PrivacyConfig
from fedmm_secure.config.sections import CTRConfig, DataConfig
from fedmm_secure.ctr.bags import Bags, make_bags
from fedmm_secure.ctr.dataset import Labelled, latest_folds
from fedmm_secure.ctr.features import PAIRS, FeatureBuilder
from fedmm_secure.ctr.models.neural import neural_choices
from fedmm_secure.ctr.models.private import PRETRAIN_EPOCHS, PrivateCTR
from fedmm_secure.ctr.private_features import PrivateHistory, latest_items
from fedmm_secure.ctr.pseudo_examples import own_seed, pseudo_examples, released_builder, released_pool
from fedmm_secure.data.candidates import Candidates, Draws, Pool, pair_keys, with_negatives
from fedmm_secure.data.market import FloatArray, IntArray, Market, history_matrix
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.errors import LostResultError
from fedmm_secure.guarantee.mechanisms import dp_sgd
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.randomness import torch_generator
from privacy.mechanisms.dp_sgd import DPSGD, NoisedSteps
from privacy.mechanisms.randomness import NoiseSource
from privacy.mechanisms.spare import Spare


def user_times(market: Market, rows: IntArray, choices: ContributionConfig) -> FloatArray:
    """When each user was active, last and on average, ``(n_users, 2)``: a function of the user's own rows."""
    user, when = market.user[rows], when_met(market, rows, choices)
    last = np.full(market.n_users, -1.0)
    np.maximum.at(last, user, when)
    count = np.maximum(np.bincount(user, minlength=market.n_users), 1)
    return np.stack([last, np.bincount(user, when, minlength=market.n_users) / count], axis=1)


@dataclass(frozen=True)
class PrivateTraining:
    """What a process that trains the CTR models of a market needs of their charges.

    Attributes:
        noise_multiplier: of each step.
        spares: noised sums of each step that no user reaches, by seed.
        keys: of the randomness, by seed; without those that are sealed.
        meters: where the spare sums are left, by seed.
        seeded: whether the keys follow from a seed.
    """

    noise_multiplier: float
    spares: Mapping[int, Spare]
    keys: Mapping[int, bytes] = field(repr=False)
    meters: Mapping[int, Path]
    seeded: bool


@dataclass(frozen=True)
class ReleasedCTR:
    """A trained model, the builder of its features at prediction time, and what its noised steps left behind."""

    model: PrivateCTR
    builder: FeatureBuilder
    steps: NoisedSteps


@dataclass(frozen=True)
class _Job:
    """Row numbers that become examples, those that their features come from (None: all of training), those that users
    touched: negatives are none of these.
    """

    rows: IntArray
    kept: IntArray | None
    touched: IntArray


@dataclass(frozen=True)
class PrivateTrainerSettings:
    """How a market's CTR models are trained where they may be released.

    Attributes:
        data: labels and negatives of examples.
        ctr: the model, its features, the last fit.
        privacy: steps and clipping, what a user contributes, pseudo-users.
        most_parameters: that the spending plan charges noise for.
    """

    data: DataConfig
    ctr: CTRConfig
    privacy: PrivacyConfig
    most_parameters: int


class PrivateTrainer:
    """Builds the CTR models that ``protect: release`` lets out of one market."""

    def __init__(self, prepared: PreparedMarket, embedding: Embedding, settings: PrivateTrainerSettings) -> None:
        if not isinstance(embedding, DPSVDEmbedding):
            raise TypeError("a released model needs private embeddings")
        self.prepared, self.embedding, self.settings = prepared, embedding, settings
        self.history = self._history(prepared.split.train)

    def train(self, quantizer: RQVAE, seed: int, training: PrivateTraining) -> ReleasedCTR:
        """The model of one seed.

        Raises:
            LostResultError: it was trained and sealed before; its randomness is gone.
        """
        if seed not in training.keys:
            name = self.prepared.market.name
            raise LostResultError(f"market {name}, ctr/{seed}: was sealed, and what it predicted is gone")
        noise = NoiseSource(training.keys[seed], seeded=training.seeded)
        choices = dp_sgd(self.settings.privacy.ctr, training.noise_multiplier)
        return self.train_with(quantizer, seed, choices, noise, spare=training.spares[seed])

    def train_with(
        self, quantizer: RQVAE, seed: int, choices: DPSGD, noise: NoiseSource, *, spare: int | Spare = 0
    ) -> ReleasedCTR:
        """The same with given private randomness, which serves this training alone."""
        privacy, builder = self.settings.privacy, self.builder(quantizer)
        seed = own_seed(self.prepared.market.name, seed)
        model = self._untrained(builder, seed)
        size = sum(parameter.numel() for parameter in model.network.parameters())
        if size > self.settings.most_parameters:
            raise ValueError(f"the network has {size} parameters, more than were charged for")
        epochs = PRETRAIN_EPOCHS if privacy.pseudo_users else 0
        model.pretrain(self._pseudo_examples(quantizer, seed), torch_generator("ctr-pretrain", seed), epochs)
        private = privacy.ctr
        bags = self._bags(model, quantizer, noise)
        found = model.fit(bags, choices, private.steps, private.learning_rate, private.average, noise, spare=spare)
        return ReleasedCTR(model, builder, found)

    def load(self, data: bytes, path: Path, quantizer: RQVAE, seed: int) -> tuple[PrivateCTR, FeatureBuilder]:
        """A model as it was kept when its training ended, and the builder of its features."""
        builder = self.builder(quantizer)
        model = self._untrained(builder, own_seed(self.prepared.market.name, seed))
        model.read(data, path)
        return model, builder

    def _untrained(self, builder: FeatureBuilder, seed: int) -> PrivateCTR:
        ctr = self.settings.ctr
        return PrivateCTR(ctr.model, builder.schema(), neural_choices(ctr), seed)

    def builder(
        self, quantizer: RQVAE, history: PrivateHistory | None = None, user_codes: IntArray | None = None
    ) -> FeatureBuilder:
        """Features of pairs; users are projected and encoded from a history, by default that of all training rows.

        ``user_codes (n_users, 2)``, published ones, replace those of the users; what users did stays their own.
        """
        return released_builder(self.settings.ctr, self.embedding, quantizer, history or self.history, user_codes)

    def _history(self, rows: IntArray) -> PrivateHistory:
        market = self.prepared.market
        choices = self.settings.privacy.contribution
        active = user_times(market, rows, choices) if {"shared", "recency"} & set(self.settings.ctr.features) else None
        latest = latest_items(market.user[rows], market.item[rows], market.n_users)
        return PrivateHistory(self.embedding, history_matrix(market, rows), latest, active)

    def negatives(self) -> Pool:
        """What negatives are drawn from, of the training and of noisy test figures.

        The whole catalogue, evenly or by noisy counts, never by raw counts.
        """
        return released_pool(self.embedding, self.settings.data)

    def _bags(self, model: PrivateCTR, quantizer: RQVAE, noise: NoiseSource) -> Bags:
        """Each user's latest rows with negatives; features of a row come from the rows before it.

        A bag depends on its user's rows, on private releases and on negatives drawn independently for each row. They
        are as secret as the noise: with a public seed, removing one user would shift the draws of others.
        """
        data, jobs = self.settings.data, self._jobs()
        width = len(jobs) * (1 + (data.negatives_per_positive if data.label == "click" else 0))
        return make_bags(self.prepared.market.n_users, width, self._examples(jobs, model, quantizer, noise))

    def _jobs(self) -> list[_Job]:
        split, settings = self.prepared.split, self.settings
        folds = latest_folds(self.prepared.market, split.train, settings.privacy.ctr.rows_per_user)
        jobs = [_Job(fold.held_out, fold.kept, split.train) for fold in folds]
        if settings.ctr.refit:
            jobs.append(_Job(split.valid, None, np.concatenate([split.train, split.valid])))
        return jobs

    def _examples(
        self, jobs: Sequence[_Job], model: PrivateCTR, quantizer: RQVAE, noise: NoiseSource
    ) -> Iterator[tuple[IntArray, Labelled]]:
        """Users, and their standardised examples, some pairs at a time."""
        for part, job in enumerate(jobs):
            builder = self.builder(quantizer, None if job.kept is None else self._history(job.kept))
            candidates = self._candidates(job.rows, job.touched, noise.derive("negatives", part))
            for start in range(0, max(len(candidates), 1), PAIRS):
                some = slice(start, start + PAIRS)
                user, item, label = candidates.user[some], candidates.item[some], candidates.label[some]
                yield user, Labelled(model.standardise(builder(user, item)), label)

    def _candidates(self, rows: IntArray, touched: IntArray, draws: Draws) -> Candidates:
        market, data = self.prepared.market, self.settings.data
        user, item = market.user[rows], market.item[rows]
        if data.label == "like":
            return Candidates(user, item, (market.rating[rows] >= data.like_threshold).astype(np.float64))
        keys = pair_keys(market.user[touched], market.item[touched], market.n_items)
        return with_negatives(user, item, self.negatives(), keys, market.n_items, data.negatives_per_positive, draws)

    def _pseudo_examples(self, quantizer: RQVAE, seed: int) -> Labelled:
        data, ctr, count = self.settings.data, self.settings.ctr, self.settings.privacy.pseudo_users
        return pseudo_examples(self.embedding, quantizer, data, ctr, count, seed)
