"""Pipelines of one market trained again: every stage that depended on its rows, on those that are left to it.

Attacks that need to know what models look like with and without somebody train them so: shadow models of membership
inference, and the users left out of a risk's control group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from attacks.retraining.federations import Coded, Federated, embed_again, federate, without_colluders
from attacks.side_by_side.ctr import fit_together
from attacks.side_by_side.quantizers import Movements, federate_together, mean_movement, train_local_together
from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.collaborative.dp_svd import DPSVDEmbedding, release_counts
from fedmm_secure.config import Config
from fedmm_secure.config.choices import CONFIGURED, BaselineName, FeatureGroup
from fedmm_secure.ctr.build import market_trainer, private_trainer
from fedmm_secure.ctr.features import PairFeatures
from fedmm_secure.ctr.histories import History
from fedmm_secure.ctr.models.neural import NeuralModel
from fedmm_secure.ctr.private_features import PrivateHistory
from fedmm_secure.ctr.recipes import Recipe, baseline_recipe, configured_recipe
from fedmm_secure.ctr.trainer import Fit, MarketTrainer
from fedmm_secure.data.candidates import Candidates
from fedmm_secure.data.market import FloatArray, IntArray, history_matrix
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.guarantee.mechanisms import dp_sgd
from fedmm_secure.guarantee.stages import COUNTS, CTR, EMBEDDING
from fedmm_secure.quantization.build import train_local_quantizer
from privacy.mechanisms.randomness import NoiseSource

_AT_ONCE = 200_000  # pairs whose features are held in memory together


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


def logit(probability: FloatArray) -> FloatArray:
    """Confidence in a click: the logit of its probability, which is nearly normal over models."""
    clipped = np.clip(probability, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


@dataclass(frozen=True)
class Trained:
    """One model of one pipeline.

    Attributes:
        prepared: what it was trained on.
        coded: what it builds on.
        predict: maps features to click probabilities.
        builder: features of the market's own users.
        accounts: features of accounts that hold given histories ``(n, n_items)``; None where accounts cannot be new.
        groups: of its features.
        history: the market's rows as the model has them: without its counts and weights no account can be scored. None
            where features are made of noised releases.
    """

    prepared: PreparedMarket
    coded: Coded
    predict: Callable[..., FloatArray]
    builder: PairFeatures
    accounts: Callable[[sparse.csr_array], PairFeatures] | None
    groups: tuple[FeatureGroup, ...]
    history: History | None

    def scores(self, histories: sparse.csr_array, items: IntArray) -> FloatArray:
        """Logits ``(n, k)`` of what accounts with histories ``(n, n_items)`` are shown of items ``(k,)``.

        Raises:
            ValueError: accounts cannot be new.
        """
        if self.accounts is None:
            raise ValueError("a model with user ids scores no new account")
        build, n = self.accounts(histories), histories.shape[0]
        account, item = np.repeat(np.arange(n), len(items)), np.tile(items, n)
        parts = [slice(start, start + _AT_ONCE) for start in range(0, len(account), _AT_ONCE)]
        shown = np.concatenate([self.predict(build(account[part], item[part])) for part in parts])
        return logit(shown).reshape(n, len(items))


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
        raw = [self._raw(half) for half in halves]
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
                    market_trainer(half, embedding, self.config) for half, embedding in zip(halves, raw, strict=True)
                ]
                yield recipe.name, self._exact(recipe, benches, coded, seed, together=together)

    def coded(self, halves: Sequence[PreparedMarket], seed: int) -> list[Coded]:
        """What a federation leaves the market with, on each of its halves."""
        raw = [self._raw(half) for half in halves]
        return self._quantizers("federated", halves, raw, seed, together=True)

    def model(self, coded: Coded, seed: int) -> Trained:
        """The first target, trained on all rows of the market with codes that are given."""
        recipe = recipe_by_name(self.config, self.targets[0])
        if recipe.name == CONFIGURED and self.config.private_ctr:
            return self._private(self.prepared, coded, seed)
        bench = market_trainer(self.prepared, coded.embedding, self.config)
        return self._exact(recipe, [bench], [coded], seed, together=False)[0]

    def embed(self, half: PreparedMarket) -> Embedding:
        """The embedding of the market with fewer rows, as the run releases it: with a budget under noise of its own."""
        config, noise = self.config, NoiseSource.from_entropy()
        if config.data.shared_items:
            return embed_again(self.fresh_noise, {**self.markets, self.market: half}, self.noise, raw=False)[
                self.market
            ]
        if not config.private_embedding:
            return fit_embedding(half, config.embedding)
        spent, matrix = self.noise[self.market], history_matrix(half.market, half.split.train)
        choices, times = config.privacy.contribution, config.times_counted
        counts = release_counts(
            half.market, half.split.train, choices, spent[COUNTS], noise.derive("counts"), times=times
        )
        embedding = DPSVDEmbedding(counts, config.embedding.private)
        return embedding.set_factors(embedding.release(matrix, spent[EMBEDDING], noise.derive("factors")), matrix)

    def _raw(self, half: PreparedMarket) -> Embedding:
        """The embedding of the market's rows that stays inside."""
        if self.config.data.shared_items:
            return self._shared(half, raw=True)
        return fit_embedding(half, self.config.embedding)

    def _shared(self, half: PreparedMarket, *, raw: bool) -> Embedding:
        markets = {**self.markets, self.market: half}
        return embed_again(self.fresh_noise, markets, self.noise, raw=raw)[self.market]

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
                recipe.features,
                bench.history,
            )
            for bench, own, fit in zip(benches, coded, fits, strict=True)
        ]

    def _private(self, half: PreparedMarket, own: Coded, seed: int) -> Trained:
        quantizer = own.quantizer
        if quantizer is None:
            raise ValueError("a released model needs codes")
        bench = private_trainer(half, own.embedding, self.fresh_noise)
        choices = dp_sgd(self.config.privacy.ctr, self.noise[self.market][CTR])
        trained = bench.train_with(quantizer, seed, choices, NoiseSource.from_entropy())

        def accounts(histories: sparse.csr_array) -> PairFeatures:
            return bench.builder(quantizer, PrivateHistory(bench.embedding, histories))

        return Trained(half, own, trained.model.predict, trained.builder, accounts, self.config.ctr.features, None)

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
        """Whether each pipeline is trained by itself: noise, and sums over a catalogue, are of one at a time."""
        return self.config.privacy.epsilon is not None or self.config.data.shared_items

    @property
    def fresh_noise(self) -> Config:
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
            last["rest"] = without_colluders(movements, self.market)
            return mean_movement(round, movements)

        embeddings = {name: raw if name == self.market else [self.other_embeddings[name]] for name in self.markets}
        stacks = federate_together(self.config, embeddings, seed, copies=len(raw), combine=combine)
        words = stacks[self.market].codewords.numpy()
        return [
            Coded(embedding, model, Federated(aggregate, aggregate + rest))
            for embedding, model, aggregate, rest in zip(
                raw, stacks[self.market].models(), words, last["rest"].swapaxes(0, 1), strict=True
            )
        ]

    def _federate(self, half: PreparedMarket, raw: Embedding, seed: int) -> Coded:
        """A whole federation, the other markets as in the run; what the market's own models build on."""
        markets, config = {**self.markets, self.market: half}, self.fresh_noise
        embeddings = None
        if not (config.private_embedding or config.data.shared_items):
            embeddings = {name: raw if name == self.market else self.other_embeddings[name] for name in markets}
        return federate(config, markets, self.noise, seed, embeddings)[self.market]


def _fit_all(fits: Sequence[Fit], *, together: bool) -> None:
    neural = [fit.model for fit in fits if isinstance(fit.model, NeuralModel)]
    if not together or len(neural) < len(fits):
        for fit in fits:
            fit.run()
        return
    refits = [fit.refit for fit in fits if fit.refit is not None]
    fit_together(neural, [fit.source for fit in fits], [fit.validation for fit in fits], refits or None)
