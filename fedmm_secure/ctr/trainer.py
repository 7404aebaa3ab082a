"""Trains recipes on one market: features, examples, tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol

import numpy as np
from scipy import sparse

from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.shared_svd import SharedSVDEmbedding
from fedmm_secure.collaborative.svd import SVDEmbedding
from fedmm_secure.config.choices import DeviceName, ModelKind
from fedmm_secure.config.sections import CTRConfig, DataConfig
from fedmm_secure.ctr.dataset import ExampleSource, Labelled, labelled, latest_folds, random_folds, training_part
from fedmm_secure.ctr.features import FeatureBuilder, PairFeatures
from fedmm_secure.ctr.histories import AccountHistory, Activity, History
from fedmm_secure.ctr.models.averaged import JoinedFeatures
from fedmm_secure.ctr.models.base import Choices, CTRModel, predict_pairs
from fedmm_secure.ctr.models.build import family_of, untrained
from fedmm_secure.ctr.recipes import Recipe
from fedmm_secure.data.candidates import like_candidates
from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.quantization.codes import Codes, assign_codes
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.randomness import derive_seed, numpy_generator
from fedmm_secure.storage.layout import QuantizerKind


class AccountFeatures(Protocol):
    """Features of accounts, by their binary histories ``(n, n_items)`` and by when they were active."""

    def __call__(self, accounts: sparse.csr_array, active: Activity | None = None) -> PairFeatures:
        """Builds features of the accounts, by their row; ``active`` says when they were."""
        ...


@dataclass(frozen=True)
class Fit:
    """A model that is ready to be fitted, and the builder of its features at prediction time."""

    model: CTRModel
    source: ExampleSource
    validation: Labelled
    refit: ExampleSource | None
    builder: PairFeatures

    def run(self) -> None:
        """Fit the model."""
        self.model.fit(self.source, self.validation, self.refit)

    def finish(self) -> None:
        """Refit a model that was stopped early, where there are rows for it."""
        if self.refit is not None:
            self.model.refit(self.refit)


@dataclass(frozen=True)
class Tuned:
    """What tuning chose: an index in the recipe's grid, and the fit with these choices, not finished yet."""

    choice: int
    fit: Fit


@dataclass(frozen=True)
class TrainerSettings:
    """How a market's CTR models are trained.

    Attributes:
        data: labels and negatives of examples.
        ctr: what tuning chooses from, folds, the last fit.
        own_dim: dimensions of an embedding of the market's rows alone.
        own_quantizer: trains codes on such an embedding; called with it, the market's name and a seed.
        device: where networks train.
    """

    data: DataConfig
    ctr: CTRConfig
    own_dim: int
    own_quantizer: Callable[[Embedding, str, int], RQVAE]
    device: DeviceName = "cpu"


class MarketTrainer:
    """Trains recipes on one market; histories and their scores are fitted once and shared."""

    def __init__(self, prepared: PreparedMarket, embedding: Embedding, settings: TrainerSettings) -> None:
        self.prepared, self.embedding, self.settings = prepared, embedding, settings
        self.own_quantizers: dict[tuple[QuantizerKind, int], RQVAE] = {}
        self._local: dict[int, RQVAE] = {}
        market, train = prepared.market, prepared.split.train
        # what others know is not of these rows: it is the same whichever of them a history holds
        shared = embedding.shared if isinstance(embedding, SharedSVDEmbedding) else None
        self.history = History(market, train, prepared.pool, shared)
        choices = settings.ctr.cross_fit
        rng = numpy_generator("folds", market.name, settings.data.candidate_seed)
        folds = latest_folds(market, train, choices.last) + random_folds(market, train, choices.random, rng)
        self._folds = [(fold.held_out, History(market, fold.kept, prepared.pool, shared)) for fold in folds]

    def train(
        self, recipe: Recipe, quantizer: RQVAE | None, seed: int, choices: Choices
    ) -> tuple[CTRModel, PairFeatures]:
        """Fit a recipe; returns the model and the builder of its features at prediction time."""
        fit = self.prepare_fit(recipe, quantizer, seed, choices)
        fit.run()
        return fit.model, fit.builder

    def prepare_fit(self, recipe: Recipe, quantizer: RQVAE | None, seed: int, choices: Choices) -> Fit:
        """An unfitted model with its training, validation and refit examples."""
        split, drawn = self.prepared.split, self._seed(seed)
        full = self.inputs(recipe, quantizer, seed)
        builders: list[tuple[IntArray, PairFeatures]] = [(split.train, full)]
        if recipe.cross_fit:
            builders = [(rows, self.inputs(recipe, quantizer, seed, history)) for rows, history in self._folds]
        fresh = family_of(recipe.kind).draws_each_epoch
        source = self._source(builders, split.train, drawn, fresh)
        refit = None
        if self.settings.ctr.refit:
            # validation rows become training rows, with negatives that know nothing of the test rows
            seen = np.concatenate([split.train, split.valid])
            refit = self._source([*builders, (split.valid, full)], seen, drawn, fresh)
        model = untrained(recipe.kind, full, choices, drawn)
        return Fit(model, source, labelled(full, self.prepared.valid), refit, full)

    def predict(self, model: CTRModel, builder: PairFeatures) -> FloatArray:
        """Click probabilities of the test candidates."""
        test = self.prepared.test
        return predict_pairs(model, builder, test.user, test.item)

    def tune(self, recipe: Recipe, quantizer: RQVAE | None, seed: int) -> Tuned:
        """The choices of the recipe's grid with the best validation AUC; all see the same examples."""
        first, *others = self.grid(recipe.kind)
        fit = self.prepare_fit(recipe, quantizer, seed, first)
        models = [fit.model, *(untrained(recipe.kind, fit.builder, one, self._seed(seed)) for one in others)]
        source = fit.source if family_of(recipe.kind).draws_each_epoch else fit.source.latest_kept()
        scores = [model.fit(source, fit.validation, None).validation_auc_ for model in models]
        choice = int(np.argmax(scores))
        return Tuned(choice, replace(fit, model=models[choice]))

    def grid(self, kind: ModelKind) -> Sequence[Choices]:
        """What tuning chooses from; the first is the configured choice."""
        return [replace(choices, device=self.settings.device) for choices in family_of(kind).grid(self.settings.ctr)]

    def local_quantizer(self, seed: int) -> RQVAE:
        """Codes that the market trained alone, in the space of the run; trained once."""
        if not isinstance(self.embedding, SharedSVDEmbedding):
            return self.own_quantizer("own", seed)  # which is its own
        if seed not in self._local:
            self._local[seed] = self.settings.own_quantizer(self.embedding, self.prepared.market.name, seed)
        return self._local[seed]

    def own_quantizer(self, kind: QuantizerKind, seed: int) -> RQVAE:
        """Codes that the market trained alone, in a space of its own; trained once, or given beforehand."""
        if (kind, seed) not in self.own_quantizers:
            name, drawn = self.prepared.market.name, seed if kind == "own" else derive_seed(kind, seed)
            found = self.settings.own_quantizer(self.own_embedding, name, drawn)
            self.own_quantizers[kind, seed] = found
        return self.own_quantizers[kind, seed]

    @cached_property
    def own_embedding(self) -> Embedding:
        """The embedding of the market's rows alone: where markets share a space, another than theirs."""
        if not isinstance(self.embedding, SharedSVDEmbedding):
            return self.embedding
        return SVDEmbedding(self.settings.own_dim).fit(self.history.matrix)

    def inputs(
        self, recipe: Recipe, quantizer: RQVAE | None, seed: int, history: History | None = None
    ) -> PairFeatures:
        """Features from a history: those of all models of an average, where one is configured."""
        found = self.builder(recipe, quantizer, history)
        members = [
            self.builder(alone, self.own_quantizer(kind, seed), history, self.own_embedding)
            for kind, alone in self.beside(recipe).items()
        ]
        return JoinedFeatures([found, *members]) if members else found

    def beside(self, recipe: Recipe) -> dict[QuantizerKind, Recipe]:
        """What is averaged with a recipe, each on codes that the market trained alone.

        In a small market that shares a catalogue its own model altogether is among them, which sees nothing of other
        markets. What is small is said of the number of users, which is public.
        """
        if not recipe.average_local:
            return {}
        found: dict[QuantizerKind, Recipe] = {"own": recipe}
        if "shared" in recipe.features and self.prepared.market.n_users < self.settings.ctr.keep_own_below:
            features = tuple(group for group in recipe.features if group != "shared")
            found["own-alone"] = replace(recipe, features=features)
        return found

    def builder(
        self,
        recipe: Recipe,
        quantizer: RQVAE | None,
        history: History | None = None,
        embedding: Embedding | None = None,
    ) -> FeatureBuilder:
        """Features from a history, codes of users included: their vectors are projected from it again."""
        history, embedding = history or self.history, embedding or self.embedding
        if quantizer is None or recipe.codes is None:
            return FeatureBuilder(recipe.features, history)
        codes = assign_codes(quantizer, embedding.transform(history.matrix), embedding.item_factors_)
        shape = quantizer.shape
        return FeatureBuilder(recipe.features, history, codes, (shape.global_codes, shape.local_codes), recipe.layers)

    def accounts(self, recipe: Recipe, quantizer: RQVAE | None, seed: int) -> AccountFeatures:
        """Makes features of accounts that the market's rows need not know: items and lift are encoded once.

        Raises:
            ValueError: the recipe needs a trained embedding of each user.
        """
        if "user_id" in recipe.features:
            raise ValueError(f"{recipe.name}: a model with user ids cannot score an account that it was not trained on")
        if quantizer is None or recipe.codes is None:
            return lambda accounts, active=None: FeatureBuilder(
                recipe.features, AccountHistory(self.history, accounts, active=active)
            )
        found = self._accounts(recipe, quantizer, self.embedding)
        members = [
            self._accounts(alone, self.own_quantizer(kind, seed), self.own_embedding)
            for kind, alone in self.beside(recipe).items()
        ]
        if not members:
            return found
        return lambda accounts, active=None: JoinedFeatures([member(accounts, active) for member in (found, *members)])

    def _accounts(self, recipe: Recipe, quantizer: RQVAE, embedding: Embedding) -> AccountFeatures:
        shape = quantizer.shape
        trained = assign_codes(quantizer, embedding.transform(self.history.matrix), embedding.item_factors_)
        affine = "code_affinity" in recipe.features
        lift = self.history.account_lift(trained, shape.global_codes) if affine else None

        def build(accounts: sparse.csr_array, active: Activity | None = None) -> FeatureBuilder:
            own = assign_codes(quantizer, embedding.transform(accounts), embedding.item_factors_[:0])
            codes = Codes(own.user, trained.item)
            history = AccountHistory(self.history, accounts, lift, active)
            sizes = shape.global_codes, shape.local_codes
            return FeatureBuilder(recipe.features, history, codes, sizes, recipe.layers)

        return build

    def _seed(self, seed: int) -> int:
        """Of examples and models, by a seed of the configuration."""
        return derive_seed("ctr", self.prepared.market.name, seed)

    def _source(
        self,
        builders: Sequence[tuple[IntArray, PairFeatures]],
        touched: IntArray,
        seed: int,
        fresh: bool,
    ) -> ExampleSource:
        data, market, pool = self.settings.data, self.prepared.market, self.prepared.pool
        if data.label == "like":
            parts = [self._like_part(rows, builder) for rows, builder in builders]
        else:
            parts = [
                training_part(
                    market,
                    rows,
                    touched,
                    pool,
                    builder,
                    per_positive=data.negatives_per_positive,
                    make_rng=partial(numpy_generator, "negatives", seed, part),
                    fresh=fresh,
                )
                for part, (rows, builder) in enumerate(builders)
            ]
        return ExampleSource(parts)

    def _like_part(self, rows: IntArray, builder: PairFeatures) -> Callable[[int], Labelled]:
        rated = like_candidates(
            self.prepared.market, rows, self.prepared.pool, threshold=self.settings.data.like_threshold
        )
        examples = labelled(builder, rated)
        return lambda epoch: examples
