"""A CTR model that may be released: pre-trained on pseudo-users, trained with user-level DP-SGD on users' bags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.private import DPSVDEmbedding
from fedmm_secure.collaborative.pseudo_users import PseudoUsers, draw_pseudo_users
from fedmm_secure.collaborative.shared_private import when_met
from fedmm_secure.config import Config, ContributionConfig
from fedmm_secure.ctr.bags import Bags, make_bags
from fedmm_secure.ctr.dataset import Labelled, labelled, latest_folds
from fedmm_secure.ctr.features import FeatureBuilder, Features, FeatureSchema
from fedmm_secure.ctr.neural import NeuralCTR, NeuralKind
from fedmm_secure.ctr.private_features import PrivateHistory, latest_items
from fedmm_secure.data.candidates import Candidates, Draws, Pool, Simulated, pair_keys, with_negatives
from fedmm_secure.data.market import FloatArray, IntArray, Market, history_matrix
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.errors import LostResultError
from fedmm_secure.foreign import unpickle_tensors
from fedmm_secure.guarantee.coordinates import most_ctr_parameters
from fedmm_secure.guarantee.mechanisms import dp_sgd
from fedmm_secure.quantization.codes import assign_codes
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.randomness import derive_seed, numpy_generator, torch_generator
from privacy.foreign import read_bytes
from privacy.mechanisms.dp_sgd import DPSGD, DPSGDTrainer, NoisedSteps
from privacy.mechanisms.per_example import FunctionalGradients, equal_slots, padded
from privacy.mechanisms.randomness import NoiseSource

PRETRAIN_EPOCHS = 6
PRETRAIN_BATCH = 512
PREDICTION_BLOCK = 256
LARGEST_NUMBER = 4.0  # standardised numbers are clipped here: an outlier must not own a gradient


class PrivateCTR:
    """Click probabilities from a network whose every parameter and constant comes from private releases.

    Standardisation uses pseudo-users, never the market's rows.
    """

    def __init__(self, kind: NeuralKind, schema: FeatureSchema, config: Config, seed: int) -> None:
        self.schema = schema
        self.network = NeuralCTR(
            kind,
            schema.cardinalities,
            len(schema.number_names),
            dim=config.ctr.dim,
            hidden=config.ctr.hidden,
            dropout=0.0,
            generator=torch_generator("ctr-init", seed),
        )
        self._centre = np.zeros(len(schema.number_names))
        self._spread = np.ones(len(schema.number_names))

    def pretrain(self, pseudo: Labelled, generator: torch.Generator, epochs: int = PRETRAIN_EPOCHS) -> None:
        """Set the standardisation and, with epochs, initial weights from pseudo-users: post-processing."""
        self._centre = pseudo.features.numbers.mean(0)
        self._spread = np.maximum(pseudo.features.numbers.std(0), 1e-3)
        categories, numbers = self._tensors(pseudo.features)
        label = torch.from_numpy(pseudo.label.astype(np.float32))
        optimizer = torch.optim.Adam(self.network.parameters(), lr=3e-3)
        loss = nn.BCEWithLogitsLoss()
        for _ in range(epochs):
            for chosen in torch.randperm(len(label), generator=generator).split(PRETRAIN_BATCH):
                optimizer.zero_grad()
                loss(self.network(categories[chosen], numbers[chosen]), label[chosen]).backward()
                optimizer.step()

    def fit(
        self,
        bags: Bags,
        choices: DPSGD,
        steps: int,
        learning_rate: float,
        average: bool,
        noise: NoiseSource,
        observe: Callable[[], None] = lambda: None,
        *,
        spare: int = 0,
    ) -> NoisedSteps:
        """DP-SGD on bags whose numbers are standardised; the average of the later iterates is post-processing.

        ``observe`` follows each step, while the noised gradients are there to be read; ``spare`` values of the noise
        come with each.
        """
        optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        gradients = FunctionalGradients(self.network, bag_loss)
        trainer = DPSGDTrainer(gradients, optimizer, choices, len(bags.mask))
        averaged = AveragedModel(self.network)
        taken = 0

        def after() -> None:
            nonlocal taken
            taken += 1
            observe()
            if taken > steps // 2:
                averaged.update_parameters(self.network)

        found = trainer.steps(bags.tensors(), steps, noise, after, spare=spare)
        if average:
            self.network.load_state_dict(averaged.module.state_dict())
        return found

    def standardise(self, features: Features) -> Features:
        scaled = (features.numbers - self._centre) / self._spread
        return Features(features.categories, np.clip(scaled, -LARGEST_NUMBER, LARGEST_NUMBER))

    def predict(self, features: Features) -> FloatArray:
        """Click probabilities ``(n,)``."""
        categories, numbers = self._tensors(features)
        with torch.no_grad():
            return np.asarray(torch.sigmoid(self.network(categories, numbers)).double().numpy())

    def predict_alone(self, features: Features) -> FloatArray:
        """``predict``, in blocks of one fixed shape: a probability is a function of its own row, to the last bit.

        A sum that is rounded otherwise when a neighbour leaves could move a score over the edge of a bin.
        """
        found, inputs = np.zeros(len(features)), self._tensors(features)
        with torch.no_grad():
            slots = equal_slots(self._probabilities, inputs, PREDICTION_BLOCK)
            for start in range(0, len(found), len(slots)):
                chosen = torch.arange(start, min(start + len(slots), len(found)))
                block = self._probabilities(padded(inputs, chosen, PREDICTION_BLOCK, slots))
                found[chosen.numpy()] = block[slots[: len(chosen)]].double().numpy()
        return found

    def _probabilities(self, block: tuple[Tensor, ...]) -> Tensor:
        return torch.sigmoid(self.network(*block))

    def state_dict(self) -> dict[str, Any]:
        """Weights of the network, and the standardisation of its numbers."""
        return {
            "network": {name: value.detach().clone() for name, value in self.network.state_dict().items()},
            "centre": torch.from_numpy(self._centre),
            "spread": torch.from_numpy(self._spread),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self._centre, self._spread = state["centre"].numpy(), state["spread"].numpy()

    def _tensors(self, features: Features) -> tuple[Tensor, Tensor]:
        scaled = self.standardise(features)
        return torch.from_numpy(scaled.categories), torch.from_numpy(scaled.numbers.astype(np.float32))


def bag_loss(forward: Callable[..., Tensor], bag: tuple[Tensor, ...]) -> Tensor:
    """Mean log loss of one user's bag; 0 for an empty bag."""
    categories, numbers, label, mask = bag
    losses = nn.functional.binary_cross_entropy_with_logits(forward(categories, numbers), label, reduction="none")
    return (losses * mask).sum() / mask.sum().clamp(min=1.0)


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
        spare: noised sums of each step that no user reaches.
        keys: of the randomness, by seed; without those that are sealed.
        meters: where the spare sums are left, by seed.
        seeded: whether the keys follow from a seed.
    """

    noise_multiplier: float
    spare: int
    keys: Mapping[int, bytes] = field(repr=False)
    meters: Mapping[int, Path]
    seeded: bool


@dataclass(frozen=True)
class ReleasedCTR:
    """A trained model, the builder of its features at prediction time, and what its noised steps left behind."""

    model: PrivateCTR
    builder: FeatureBuilder
    steps: NoisedSteps


class PrivateBench:
    """Builds the CTR models that ``protect: release`` lets out of one market."""

    def __init__(self, prepared: PreparedMarket, embedding: Embedding, config: Config) -> None:
        if not isinstance(embedding, DPSVDEmbedding):
            raise TypeError("a released model needs private embeddings")
        self.prepared, self.embedding, self.config = prepared, embedding, config
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
        choices = dp_sgd(self.config.privacy.ctr, training.noise_multiplier)
        return self.train_with(quantizer, seed, choices, noise, spare=training.spare)

    def train_with(
        self, quantizer: RQVAE, seed: int, choices: DPSGD, noise: NoiseSource, *, spare: int = 0
    ) -> ReleasedCTR:
        """The same with given private randomness, which serves this training alone."""
        config, builder = self.config, self.builder(quantizer)
        seed = self._own_seed(seed)
        model = self._untrained(builder, seed)
        size = sum(parameter.numel() for parameter in model.network.parameters())
        if size > most_ctr_parameters(config, self.prepared.market.n_items):
            raise ValueError(f"the network has {size} parameters, more than were charged for")
        epochs = PRETRAIN_EPOCHS if config.privacy.pseudo_users else 0
        model.pretrain(self._pseudo_examples(quantizer, seed), torch_generator("ctr-pretrain", seed), epochs)
        private = config.privacy.ctr
        bags = self._bags(model, quantizer, noise)
        found = model.fit(bags, choices, private.steps, private.learning_rate, private.average, noise, spare=spare)
        return ReleasedCTR(model, builder, found)

    def load(self, path: Path, quantizer: RQVAE, seed: int) -> tuple[PrivateCTR, FeatureBuilder]:
        """A model as it was kept when its training ended, and the builder of its features."""
        builder = self.builder(quantizer)
        model = self._untrained(builder, self._own_seed(seed))
        model.load_state_dict(unpickle_tensors(read_bytes(path), path))
        return model, builder

    def _own_seed(self, seed: int) -> int:
        return derive_seed("ctr", self.prepared.market.name, seed)

    def _untrained(self, builder: FeatureBuilder, seed: int) -> PrivateCTR:
        kind = self.config.ctr.model
        if kind == "boosted":
            raise ValueError("boosted trees cannot train with DP-SGD")
        return PrivateCTR(kind, builder.schema(), self.config, seed)

    def builder(
        self, quantizer: RQVAE, history: PrivateHistory | None = None, user_codes: IntArray | None = None
    ) -> FeatureBuilder:
        """Features of pairs; users are projected and encoded from a history, by default that of all training rows.

        ``user_codes (n_users, 2)``, published ones, replace those of the users; what users did stays their own.
        """
        history = history or self.history
        users = self.embedding.transform(history.matrix)
        codes = assign_codes(quantizer, users, self.embedding.item_factors_)
        if user_codes is not None:
            codes = replace(codes, user=user_codes)
        shape = quantizer.shape
        return FeatureBuilder(self.config.ctr.features, history, codes, (shape.global_codes, shape.local_codes))

    def _history(self, rows: IntArray) -> PrivateHistory:
        market = self.prepared.market
        active = user_times(market, rows, self.config.privacy.contribution) if self.config.data.shared_items else None
        latest = latest_items(market.user[rows], market.item[rows], market.n_users)
        return PrivateHistory(self.embedding, history_matrix(market, rows), latest, active)

    def negatives(self) -> Pool:
        """What negatives are drawn from, of the training and of noisy test figures.

        The whole catalogue, evenly or by noisy counts, never by raw counts.
        """
        counts = self.embedding.counts.values
        items = np.arange(len(counts))
        weights = np.ones(len(counts))
        if self.config.data.negatives == "popularity" and (counts > 0).any():
            weights = np.maximum(counts, 0.0)
        return Pool(items, weights / weights.sum(), 1.0)

    def _bags(self, model: PrivateCTR, quantizer: RQVAE, noise: NoiseSource) -> Bags:
        """Each user's latest rows with negatives; features of a row come from the rows before it.

        A bag depends on its user's rows, on private releases and on negatives drawn independently for each row. They
        are as secret as the noise: with a public seed, removing one user would shift the draws of others.
        """
        market, split, config = self.prepared.market, self.prepared.split, self.config
        depth = config.privacy.ctr.rows_per_user
        folds = latest_folds(market, split.train, depth)
        jobs = [(fold.held_out, self._history(fold.kept), split.train) for fold in folds]
        if config.ctr.refit:
            jobs.append((split.valid, self.history, np.concatenate([split.train, split.valid])))
        parts = []
        for part, (rows, history, touched) in enumerate(jobs):
            candidates = self._candidates(rows, touched, noise.derive("negatives", part))
            found = labelled(self.builder(quantizer, history), candidates)
            standardised = Labelled(model.standardise(found.features), found.label)
            parts.append((candidates.user, standardised))
        width = len(jobs) * (1 + (config.data.negatives_per_positive if config.data.label == "click" else 0))
        return make_bags(market.n_users, width, parts)

    def _candidates(self, rows: IntArray, touched: IntArray, draws: Draws) -> Candidates:
        market, data = self.prepared.market, self.config.data
        user, item = market.user[rows], market.item[rows]
        if data.label == "like":
            return Candidates(user, item, (market.rating[rows] >= data.like_threshold).astype(np.float64))
        keys = pair_keys(market.user[touched], market.item[touched], market.n_items)
        return with_negatives(user, item, self.negatives(), keys, market.n_items, data.negatives_per_positive, draws)

    def _pseudo_examples(self, quantizer: RQVAE, seed: int) -> Labelled:
        """Pseudo-users' next items with negatives; at least a few, for the standardisation."""
        rng = numpy_generator("ctr-pseudo-users", seed)
        pseudo = draw_pseudo_users(self.embedding, max(self.config.privacy.pseudo_users, 200), rng)
        history = PrivateHistory(self.embedding, pseudo.history, pseudo.latest)
        return labelled(self.builder(quantizer, history), self._pseudo_pairs(pseudo, rng))

    def _pseudo_pairs(self, pseudo: PseudoUsers, rng: np.random.Generator) -> Candidates:
        n, n_items = pseudo.history.shape
        history = pseudo.history.tocoo()
        keys = pair_keys(history.coords[0].astype(np.int64), history.coords[1].astype(np.int64), n_items)
        users = np.arange(n)
        per_positive = self.config.data.negatives_per_positive if self.config.data.label == "click" else 1
        return with_negatives(users, pseudo.next_item, self.negatives(), keys, n_items, per_positive, Simulated(rng))
