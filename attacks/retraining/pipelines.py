"""Pipelines of one market trained again: every stage that depended on its rows, on those that are left to it.

Attacks that need to know what models look like with and without somebody train them so: shadow models of membership
inference, and the users left out of a risk's control group.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from attacks.side_by_side.ctr import fit_together
from attacks.side_by_side.quantizers import Movements, federate_together, mean_movement, train_local_together
from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.config import Config
from fedmm_secure.config.choices import CONFIGURED, BaselineName
from fedmm_secure.ctr.features import PairFeatures
from fedmm_secure.ctr.models.neural import NeuralModel
from fedmm_secure.ctr.private_features import PrivateHistory
from fedmm_secure.ctr.private_trainer import PrivateTrainer
from fedmm_secure.ctr.recipes import Recipe, baseline_recipe, configured_recipe
from fedmm_secure.ctr.trainer import Fit, MarketTrainer
from fedmm_secure.data.candidates import Candidates
from fedmm_secure.data.market import FloatArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.parties import open_federation
from fedmm_secure.guarantee.mechanisms import dp_sgd
from fedmm_secure.guarantee.stages import CTR
from fedmm_secure.pipeline import embed_markets, refine, train_federated
from fedmm_secure.quantization.build import train_local_quantizer
from fedmm_secure.quantization.rqvae import RQVAE
from privacy.mechanisms.randomness import NoiseSource


def recipe_by_name(config: Config, name: str) -> Recipe:
    """A target model: ``fedmm`` (the configured one) or a trained baseline."""
    if name == CONFIGURED:
        return configured_recipe(config)
    recipe = baseline_recipe(name)  # type: ignore[arg-type]
    if recipe is None:
        trained = [known for known in get_args(BaselineName) if baseline_recipe(known) is not None]
        known = ", ".join([CONFIGURED, *trained])
        raise ValueError(f"{name} cannot be attacked through shadow pipelines; choose from {known}")
    return recipe


@dataclass(frozen=True)
class Federated:
    """Global codewords after the last round: of all markets, and as the market's own update left them."""

    aggregate: FloatArray
    own: FloatArray | None


@dataclass(frozen=True)
class Coded:
    """What CTR models of one pipeline build on."""

    embedding: Embedding
    quantizer: RQVAE | None = None
    federated: Federated | None = None


def without_rows(prepared: PreparedMarket, kept: NDArray[np.bool_]) -> PreparedMarket:
    """The market with those of its training rows alone, ``(n_train,)``."""
    return replace(prepared, split=replace(prepared.split, train=prepared.split.train[kept]))


def without_users(prepared: PreparedMarket, kept: NDArray[np.bool_]) -> PreparedMarket:
    """The market with those users alone, ``(n_users,)``: who is left out has no rows in any part."""
    user = prepared.market.user
    parts = {name: rows[kept[user[rows]]] for name, rows in vars(prepared.split).items()}

    def candidates(found: Candidates) -> Candidates:
        chosen = kept[found.user]
        return Candidates(found.user[chosen], found.item[chosen], found.label[chosen])

    return replace(
        prepared,
        split=replace(prepared.split, **parts),
        valid=candidates(prepared.valid),
        test=candidates(prepared.test),
    )


@dataclass(frozen=True)
class Trained:
    """One model of one pipeline.

    Attributes:
        prepared: what it was trained on.
        coded: what it builds on.
        predict: maps features to click probabilities.
        builder: features of the market's own users.
        accounts: features of accounts that hold given histories ``(n, n_items)``; None where accounts cannot be new.
    """

    prepared: PreparedMarket
    coded: Coded
    predict: Callable[..., FloatArray]
    builder: PairFeatures
    accounts: Callable[[sparse.csr_array], PairFeatures] | None


@dataclass(frozen=True)
class Retraining:
    """What it takes to train a market's pipeline again.

    Attributes:
        config: the run's configuration.
        markets: all markets of the run; the others stay as they are.
        market: the market whose pipeline it is.
        targets: names of the models.
        choices: by target, position of its hyper-parameters in their grid, as the run tuned them.
        noise: by market and stage group, the noise multipliers of the run; empty without DP.
    """

    config: Config
    markets: Mapping[str, PreparedMarket]
    market: str
    targets: tuple[str, ...]
    choices: Mapping[str, int]
    noise: Mapping[str, Mapping[str, float]]

    @property
    def prepared(self) -> PreparedMarket:
        """The attacked market."""
        return self.markets[self.market]

    def train(
        self, halves: Sequence[PreparedMarket], seed: int, *, together: bool = True
    ) -> Iterator[tuple[str, list[Trained]]]:
        """Train every stage on each of the market's halves; by target, a model of each half.

        Args:
            halves: the market with fewer rows.
            seed: of initialisation and order.
            together: whether networks are trained side by side; one after the other otherwise, with the same result
                but for rounding, batch boundaries and dropout.
        """
        recipes = [recipe_by_name(self.config, name) for name in self.targets]
        raw = [fit_embedding(half, self.config.embedding) for half in halves]
        quantizers = {
            kind: self._quantizers(kind, halves, raw, seed, together=together)
            for kind in {recipe.codes for recipe in recipes} - {None}
        }
        benches: list[MarketTrainer] | None = None
        for recipe in recipes:
            coded = quantizers.get(recipe.codes, [Coded(embedding) for embedding in raw])
            if recipe.name == CONFIGURED and self.config.private_ctr:
                yield recipe.name, [self._private(half, own, seed) for half, own in zip(halves, coded, strict=True)]
            else:
                benches = benches or [
                    MarketTrainer(half, embedding, self.config) for half, embedding in zip(halves, raw, strict=True)
                ]
                yield recipe.name, self._exact(recipe, benches, coded, seed, together=together)

    def _exact(
        self, recipe: Recipe, benches: Sequence[MarketTrainer], coded: Sequence[Coded], seed: int, *, together: bool
    ) -> list[Trained]:
        choices = benches[0].grid(recipe.kind)[self.choices.get(recipe.name, 0)]
        fits = []
        for bench, own in zip(benches, coded, strict=True):
            bench.embedding = own.embedding  # histories and their scores are shared by the targets, embeddings are not
            fits.append(bench.prepare_fit(recipe, own.quantizer, seed, choices))
        _fit_all(fits, together=together)
        known = "user_id" in recipe.features
        return [
            Trained(
                bench.prepared,
                own,
                fit.model.predict,
                fit.builder,
                None if known else bench.accounts(recipe, own.quantizer, seed),
            )
            for bench, own, fit in zip(benches, coded, fits, strict=True)
        ]

    def _private(self, half: PreparedMarket, own: Coded, seed: int) -> Trained:
        quantizer = own.quantizer
        if quantizer is None:
            raise ValueError("a released model needs codes")
        bench = PrivateTrainer(half, own.embedding, self._fresh_noise)
        choices = dp_sgd(self.config.privacy.ctr, self.noise[self.market][CTR])
        trained = bench.train_with(quantizer, seed, choices, NoiseSource.from_entropy())

        def accounts(histories: sparse.csr_array) -> PairFeatures:
            return bench.builder(quantizer, PrivateHistory(bench.embedding, histories))

        return Trained(half, own, trained.model.predict, trained.builder, accounts)

    @cached_property
    def other_embeddings(self) -> dict[str, Embedding]:
        """Raw embeddings of the other markets, the same in every shadow pipeline."""
        return {
            name: fit_embedding(other, self.config.embedding)
            for name, other in self.markets.items()
            if name != self.market
        }

    @property
    def trains_alone(self) -> bool:
        """Whether each pipeline is trained by itself: noise is drawn for one at a time."""
        return self.config.privacy.epsilon is not None

    @property
    def _fresh_noise(self) -> Config:
        """The configuration without a noise seed: a seed that the adversary shared would give the noise away."""
        return self.config.model_copy(update={"privacy": self.config.privacy.model_copy(update={"noise_seed": None})})

    def _quantizers(
        self,
        kind: str | None,
        halves: Sequence[PreparedMarket],
        raw: Sequence[Embedding],
        seed: int,
        *,
        together: bool,
    ) -> list[Coded]:
        if kind == "local":
            if together:
                models = train_local_together(self.config, raw, self.market, seed)
            else:
                models = [train_local_quantizer(self.config, embedding, self.market, seed) for embedding in raw]
            return [Coded(embedding, model) for embedding, model in zip(raw, models, strict=True)]
        if self.trains_alone or not together:
            return [self._federate(half, own, seed) for half, own in zip(halves, raw, strict=True)]
        last: dict[str, FloatArray] = {}

        def combine(round: int, movements: Movements) -> FloatArray:
            applied = mean_movement(round, movements)
            last["gap"] = movements[self.market] - applied
            return applied

        embeddings = {name: raw if name == self.market else [self.other_embeddings[name]] for name in self.markets}
        stacks = federate_together(self.config, embeddings, seed, copies=len(raw), combine=combine)
        words = stacks[self.market].codewords.numpy()
        return [
            Coded(embedding, model, Federated(aggregate, aggregate + gap))
            for embedding, model, aggregate, gap in zip(
                raw, stacks[self.market].models(), words, last["gap"], strict=True
            )
        ]

    def _federate(self, half: PreparedMarket, raw: Embedding, seed: int) -> Coded:
        """A whole federation, the other markets as in the run; what the market's own models build on."""
        markets = {**self.markets, self.market: half}
        # plaintext sums give bit-identical codebooks, faster; not admitted for distributed noise
        kind = self.config.aggregation.kind if self.config.privacy.distributed_noise else "plaintext"
        aggregation = self.config.aggregation.model_copy(update={"kind": kind, "rotate_after": None})
        config = self._fresh_noise.model_copy(update={"seed": (seed,), "aggregation": aggregation})
        with tempfile.TemporaryDirectory(prefix="fedmm-shadow-") as scratch:
            federation = open_federation(config, markets, Path(scratch), noise=self.noise)
            if config.private_embedding:
                embeddings = embed_markets(federation, markets)
            else:
                embeddings = {name: raw if name == self.market else self.other_embeddings[name] for name in markets}
            models = train_federated(federation, seed, embeddings)
            words = models[self.market].global_codebook.codewords.detach().numpy().copy()
            embeddings, quantizers = refine(federation, markets, embeddings, {seed: models})
        return Coded(embeddings[self.market], quantizers[seed][self.market], Federated(words, None))


def _fit_all(fits: Sequence[Fit], *, together: bool) -> None:
    neural = [fit.model for fit in fits if isinstance(fit.model, NeuralModel)]
    if not together or len(neural) < len(fits):
        for fit in fits:
            fit.run()
        return
    refits = [fit.refit for fit in fits if fit.refit is not None]
    fit_together(neural, [fit.source for fit in fits], [fit.validation for fit in fits], refits or None)
