"""Shadow pipelines: every stage that depended on the target market's rows is trained again on half of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import get_args

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from attacks.membership.observations import Accounts, Observed, observe, strangers
from attacks.membership.queries import Queries, fair_coins, halve
from attacks.membership.units import Unit
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
from fedmm_secure.data.market import FloatArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.federation.parties import open_federation
from fedmm_secure.guarantee.mechanisms import dp_sgd
from fedmm_secure.guarantee.stages import CTR
from fedmm_secure.pipeline import embed_markets, refine, train_federated
from fedmm_secure.quantization.build import train_local_quantizer
from fedmm_secure.quantization.rqvae import RQVAE
from fedmm_secure.randomness import numpy_generator
from fedmm_secure.storage.files import Store
from privacy.mechanisms.randomness import NoiseSource

Progress = Callable[[int, int], None]
GROUP = 16  # pipelines trained side by side: more share overhead no better, and outgrow the processor's cache


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
class ShadowScores:
    """What the shadow pipelines showed.

    Attributes:
        observed: by target model, each view's observations stacked over pipelines, ``(n_shadows, n_queries, …)``.
        member: ``(n_shadows, n_units)``: whether the pipeline was trained with the unit.
        queries: the rows that were asked about.
        unit: what ``member`` is about: the queried row, or the user.
        opened_by: the view that reads single updates of the global codebook; None where masks hide them from all.
    """

    observed: dict[str, Observed]
    member: NDArray[np.bool_]
    queries: Queries
    unit: Unit
    opened_by: str | None


@dataclass(frozen=True)
class ShadowPlan:
    """What shadow pipelines need to know.

    Attributes:
        config: the run's configuration.
        markets: all markets of the run.
        market: the market under attack.
        targets: names of the attacked models.
        choices: by target, position of its hyper-parameters in their grid, as the run tuned them.
        noise: by market and stage group, the noise multipliers of the run; empty without DP.
        unit: whether halves are drawn of rows or of users.
    """

    config: Config
    markets: Mapping[str, PreparedMarket]
    market: str
    targets: tuple[str, ...]
    choices: Mapping[str, int]
    noise: Mapping[str, Mapping[str, float]]
    unit: Unit = "interaction"

    def train(
        self, halves: Sequence[PreparedMarket], queries: Queries, seed: int, *, together: bool = True
    ) -> list[dict[str, Observed]]:
        """Train every stage on each half of the market; returns what each target model shows of the queries.

        Args:
            halves: the market with fewer rows.
            queries: what is asked.
            seed: of initialisation and order.
            together: whether networks are trained side by side; one after the other otherwise, with the same result
                but for rounding, batch boundaries and dropout.
        """
        recipes = [recipe_by_name(self.config, name) for name in self.targets]
        raw = [fit_embedding(half, self.config.embedding) for half in halves]
        found: list[dict[str, Observed]] = [{} for _ in halves]
        quantizers = {
            kind: self._quantizers(kind, halves, raw, seed, together=together)
            for kind in {recipe.codes for recipe in recipes} - {None}
        }
        benches: list[MarketTrainer] | None = None
        for recipe in recipes:
            coded = quantizers.get(recipe.codes, [Coded(embedding) for embedding in raw])
            if recipe.name == CONFIGURED and self.config.private_ctr:
                observed = [
                    self._attack_private(half, own, queries, seed) for half, own in zip(halves, coded, strict=True)
                ]
            else:
                benches = benches or [
                    MarketTrainer(half, embedding, self.config) for half, embedding in zip(halves, raw, strict=True)
                ]
                observed = self._attack_raw(recipe, benches, coded, queries, seed, together=together)
            for answers, one in zip(found, observed, strict=True):
                answers[recipe.name] = one
        return found

    def _attack_raw(
        self,
        recipe: Recipe,
        benches: Sequence[MarketTrainer],
        coded: Sequence[Coded],
        queries: Queries,
        seed: int,
        *,
        together: bool,
    ) -> list[Observed]:
        choices = benches[0].grid(recipe.kind)[self.choices.get(recipe.name, 0)]
        fits = []
        for bench, own in zip(benches, coded, strict=True):
            bench.embedding = own.embedding  # histories and their scores are shared by the targets, embeddings are not
            fits.append(bench.prepare_fit(recipe, own.quantizer, seed, choices))
        _fit_all(fits, together=together)
        observed = []
        for bench, own, fit in zip(benches, coded, fits, strict=True):
            accounts = None
            if "user_id" not in recipe.features:
                build = bench.accounts(recipe, own.quantizer, seed)
                accounts = Accounts(build(queries.history), build(queries.pairs.accounts))
            observed.append(self._observe(fit.model.predict, fit.builder, bench.prepared, accounts, own, queries))
        return observed

    def _attack_private(self, half: PreparedMarket, own: Coded, queries: Queries, seed: int) -> Observed:
        if own.quantizer is None:
            raise ValueError("a released model needs codes")
        bench = PrivateTrainer(half, own.embedding, self._fresh_noise)
        choices = dp_sgd(self.config.privacy.ctr, self.noise[self.market][CTR])
        trained = bench.train_with(own.quantizer, seed, choices, NoiseSource.from_entropy())
        accounts = Accounts(
            *(
                bench.builder(own.quantizer, PrivateHistory(bench.embedding, histories))
                for histories in (queries.history, queries.pairs.accounts)
            )
        )
        return self._observe(trained.model.predict, trained.builder, half, accounts, own, queries)

    def _observe(
        self,
        predict: Callable[..., FloatArray],
        builder: PairFeatures,
        half: PreparedMarket,
        accounts: Accounts | None,
        own: Coded,
        queries: Queries,
    ) -> Observed:
        profiles = np.arange(half.market.n_users)
        if self.unit == "user":
            known = np.isin(profiles, half.market.user[half.split.train])
            profiles = strangers(queries.full, known, numpy_generator("strangers", self.market))
        return observe(predict, builder, profiles, accounts, own.embedding, own.quantizer, own.federated, queries)

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


def _fit_all(fits: Sequence[Fit], *, together: bool) -> None:
    neural = [fit.model for fit in fits if isinstance(fit.model, NeuralModel)]
    if not together or len(neural) < len(fits):
        for fit in fits:
            fit.run()
        return
    refits = [fit.refit for fit in fits if fit.refit is not None]
    fit_together(neural, [fit.source for fit in fits], [fit.validation for fit in fits], refits or None)


def train_shadows(
    plan: ShadowPlan,
    *,
    n_shadows: int,
    store: Store,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> ShadowScores:
    """Train shadow pipelines on random halves of one market; kept in ``store`` group by group.

    The candidate pool, the split, the seed and the other markets stay as they are.
    """
    prepared = plan.markets[plan.market]
    n_units = len(prepared.split.train) if plan.unit == "interaction" else prepared.market.n_users
    member = fair_coins(n_shadows, n_units, numpy_generator("shadow", plan.market, plan.unit, seed))
    queries = Queries.of(prepared)
    folder = f"shadows/{plan.market}/{plan.unit}/{'+'.join(sorted(plan.targets))}/coins-{n_shadows}"
    # with noise they are trained one by one: then each is told of, and kept, when it is done
    size = 1 if plan.trains_alone else min(GROUP, -(-n_shadows // plan.config.workers))
    groups = [range(start, min(start + size, n_shadows)) for start in range(0, n_shadows, size)]
    federated = any(recipe_by_name(plan.config, target).codes == "federated" for target in plan.targets)
    if federated and not plan.config.private_embedding:
        _ = plan.other_embeddings  # fitted here once; they travel to the workers with the plan
    tasks = (
        joblib.delayed(_keep)(store, folder, group, plan, member[group.start : group.stop], queries)
        for group in groups
        if not all(store.path(_name(folder, index)).exists() for index in group)
    )
    done = sum(store.path(_name(folder, index)).exists() for index in range(n_shadows))
    progress(done, n_shadows)
    finished = joblib.Parallel(n_jobs=plan.config.workers, return_as="generator_unordered")(tasks)
    for count in finished:
        done = min(done + count, n_shadows)
        progress(done, n_shadows)
    kept = [store.arrays(_name(folder, index), dict) for index in range(n_shadows)]
    observed = {
        target: {
            key.split("/", 1)[1]: np.stack([arrays[key] for arrays in kept])
            for key in kept[0]
            if key.split("/", 1)[0] == target
        }
        for target in plan.targets
    }
    if plan.unit == "interaction":
        member = member[:, np.isin(prepared.split.train, queries.rows)]
    return ShadowScores(observed, member, queries, plan.unit, plan.config.aggregation.traits.opened_by)


def _name(folder: str, index: int) -> str:
    return f"{folder}/{index:04d}"


def _keep(
    store: Store,
    folder: str,
    group: range,
    plan: ShadowPlan,
    member: NDArray[np.bool_],
    queries: Queries,
) -> int:
    torch.set_num_threads(1)  # processes share the cores
    halves = [halve(plan.markets[plan.market], plan.unit, own) for own in member]
    # the configuration is public, and so is the run's seed of initialisation and order (never that of noise)
    seed = plan.config.seed[0]
    chunks = [[index] for index in range(len(group))] if plan.trains_alone else [list(range(len(group)))]
    for chunk in chunks:
        names = [_name(folder, group[index]) for index in chunk]
        if all(store.path(name).exists() for name in names):
            continue
        found = plan.train([halves[index] for index in chunk], queries, seed)
        for name, answers in zip(names, found, strict=True):
            flat = {f"{target}/{key}": value for target, observed in answers.items() for key, value in observed.items()}
            store.arrays(name, partial(dict, flat))
    return len(group)
