"""What a malicious market does to the others' models, and what defences give back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import joblib
import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from attacks.metrics import Estimate, bounded_estimate
from attacks.poisoning.strategies import (
    SMALLEST_GROUP,
    STRATEGIES,
    Defence,
    MedianOfGroups,
    NormBound,
    admits_groups,
    mean,
)
from attacks.retraining.federations import federate
from attacks.retraining.pipelines import Retraining
from attacks.side_by_side.quantizers import Movements, federate_together
from fedmm_secure.collaborative.base import Embedding
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.config import Config
from fedmm_secure.config.choices import CONFIGURED
from fedmm_secure.ctr.build import market_trainer
from fedmm_secure.ctr.recipes import configured_recipe
from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.quantization.build import initial_model
from fedmm_secure.quantization.codes import assign_codes, codebook_use
from fedmm_secure.quantization.rqvae import RQVAE

HONEST, UNDEFENDED = "none", "sum under masks"
_QUANTILE = 0.9  # of honest movements: where a norm bound is set


@dataclass(frozen=True)
class Damage:
    """One attack under one defence, over the honest markets.

    Attributes:
        strategy: of the attacker; ``none`` is an honest market, with a budget under other noise.
        defence: what joins the movements.
        auc: mean test AUC of the honest markets' configured model.
        loss: mean AUC lost against honest markets without defence, paired by market.
        codes: mean number of global codes that honest markets' users and items have.
        agreement: mean adjusted Rand index of their global codes with those of the first scenario, all honest.
        victims: honest markets.
    """

    strategy: str
    defence: str
    auc: Estimate
    loss: Estimate
    codes: float
    agreement: float
    victims: int


def poison(config: Config, markets: Mapping[str, PreparedMarket], attacker: str) -> list[Damage]:
    """Play every strategy of one market against every defence, without DP; federations run side by side.

    Raises:
        ValueError: federations of this configuration are played one by one.
    """
    if played_alone(config):
        raise ValueError("markets draw noise or sum over a catalogue: poison_under_masks plays federations one by one")
    embeddings = {name: fit_embedding(prepared, config.embedding) for name, prepared in markets.items()}
    shared = {name: [embedding] for name, embedding in embeddings.items()}
    seed = config.seed[0]
    defences: dict[str, Defence] = {"mean": mean, "norm bound": NormBound(_honest_norm(config, shared, seed))}
    defences["median over markets"] = MedianOfGroups(1)
    if admits_groups(len(markets)):
        defences["median of groups"] = MedianOfGroups(SMALLEST_GROUP)
    scenarios = [(strategy, defence) for strategy in (HONEST, *STRATEGIES) for defence in defences]
    words = initial_model(config, seed).global_codebook.codewords.detach().double().numpy()
    current = np.stack([words] * len(scenarios))

    def combine(round: int, movements: Movements) -> FloatArray:
        applied = []
        for index, (strategy, defence) in enumerate(scenarios):
            sent = {name: moved[index] for name, moved in movements.items()}
            if strategy != HONEST:
                tampered = STRATEGIES[strategy](sent[attacker], current[index], len(sent))
                sent[attacker] = np.clip(tampered, -config.aggregation.clip, config.aggregation.clip)
            applied.append(defences[defence](list(sent.values())))
        current[:] += np.stack(applied)
        return np.stack(applied)

    stacks = federate_together(config, shared, seed, copies=len(scenarios), combine=combine)
    victims = [name for name in markets if name != attacker]
    tasks = (
        joblib.delayed(_aucs)(config, markets[name], embeddings[name], stacks[name].models(), seed) for name in victims
    )
    found = dict(zip(victims, joblib.Parallel(n_jobs=config.workers)(tasks), strict=True))
    aucs, used, agreement = (
        np.array([[row[column] for row in found[name]] for name in victims]) for column in range(3)
    )
    return _damages(scenarios, aucs, used, agreement)


def played_alone(config: Config) -> bool:
    """Whether federations of a configuration can only be played one by one: with a budget, or a shared catalogue."""
    return config.privacy.epsilon is not None or config.data.shared_items


def poison_under_masks(
    config: Config, markets: Mapping[str, PreparedMarket], attacker: str, noise: Mapping[str, Mapping[str, float]]
) -> list[Damage]:
    """Play every strategy of one market in federations, each with noise of its own where there is any; nothing defends.

    Under masks nobody can: a norm bound or a median needs to see what is sent. What bounds the market is the format of
    integers alone; it need not clip. The first scenario, all honest, is the one that others are compared with; it is
    played twice, so that what noise alone changes stands beside what an attack does.

    Args:
        config: of the run, without a noise seed.
        markets: all of them.
        attacker: the malicious one.
        noise: by market and stage group, noise multipliers.
    """
    scenarios = [(strategy, UNDEFENDED) for strategy in (HONEST, HONEST, *STRATEGIES)]
    tasks = (joblib.delayed(_played)(config, markets, attacker, noise, strategy) for strategy, _ in scenarios)
    played = joblib.Parallel(n_jobs=config.workers)(tasks)
    victims = list(played[0].auc)
    aucs = np.array([[found.auc[name] for found in played] for name in victims])
    used = np.array([[found.used[name] for found in played] for name in victims])
    codes = [(played[0].codes[name], [found.codes[name] for found in played]) for name in victims]
    agreement = np.array([[adjusted_rand_score(honest, own) for own in found] for honest, found in codes])
    return _damages(scenarios, aucs, used, agreement)[1:]


_NOTHING = Estimate(0.0, 0.0, 0.0)  # that losses are counted from loses nothing, by definition


def _damages(
    scenarios: Sequence[tuple[str, str]], aucs: FloatArray, used: FloatArray, agreement: FloatArray
) -> list[Damage]:
    """From figures ``(n_victims, n_scenarios)``; the first scenario is what losses are counted from."""
    return [
        Damage(
            strategy,
            defence,
            bounded_estimate(aucs[:, index]),
            bounded_estimate(aucs[:, 0] - aucs[:, index], -1.0) if index else _NOTHING,
            float(used[:, index].mean()),
            float(agreement[:, index].mean()),
            len(aucs),
        )
        for index, (strategy, defence) in enumerate(scenarios)
    ]


@dataclass(frozen=True)
class _Played:
    """By honest market: test AUC, global codes in use, and the global codes of its users and items."""

    auc: dict[str, float]
    used: dict[str, int]
    codes: dict[str, IntArray]


def _played(
    config: Config,
    markets: Mapping[str, PreparedMarket],
    attacker: str,
    noise: Mapping[str, Mapping[str, float]],
    strategy: str,
) -> _Played:
    torch.set_num_threads(1)
    seed, embeddings = config.seed[0], None
    if not (config.private_embedding or config.data.shared_items):
        embeddings = {name: fit_embedding(prepared, config.embedding) for name, prepared in markets.items()}
    malicious = {} if strategy == HONEST else {attacker: STRATEGIES[strategy]}
    found = _Played({}, {}, {})
    for name, coded in federate(config, markets, noise, seed, embeddings, malicious).items():
        if name == attacker or coded.quantizer is None:
            continue
        prepared = markets[name]
        trained = Retraining(config, markets, name, (CONFIGURED,), {}, noise).model(coded, seed)
        predicted = trained.predict(trained.builder(prepared.test.user, prepared.test.item))
        found.auc[name] = float(roc_auc_score(prepared.whole.test.label, prepared.complete(predicted)))
        codes = assign_codes(coded.quantizer, coded.embedding.user_factors_, coded.embedding.item_factors_)
        found.codes[name] = np.concatenate([codes.user[:, 0], codes.item[:, 0]])
        found.used[name] = codebook_use(found.codes[name], coded.quantizer.shape.global_codes).used
    return found


def _honest_norm(config: Config, shared: Mapping[str, Sequence[Embedding]], seed: int) -> float:
    """The norm that nine in ten honest movements stay below."""
    norms: list[float] = []

    def watch(round: int, movements: Movements) -> FloatArray:
        norms.extend(float(np.linalg.norm(moved[0])) for moved in movements.values())
        return mean(list(movements.values()))

    federate_together(config, shared, seed, copies=1, combine=watch)
    return float(np.quantile(norms, _QUANTILE))


def _aucs(
    config: Config, prepared: PreparedMarket, embedding: Embedding, models: Sequence[RQVAE], seed: int
) -> list[tuple[float, int, float]]:
    """By RQ-VAE: test AUC of the configured model on its codes, global codes in use, agreement with the first's."""
    torch.set_num_threads(1)
    bench, recipe, found = market_trainer(prepared, embedding, config), configured_recipe(config), []
    choices, honest = bench.grid(recipe.kind)[0], None
    for model in models:
        ctr, builder = bench.train(recipe, model, seed, choices)
        codes = assign_codes(model, embedding.user_factors_, embedding.item_factors_)
        own = np.concatenate([codes.user[:, 0], codes.item[:, 0]])
        honest = own if honest is None else honest
        auc = float(roc_auc_score(prepared.whole.test.label, prepared.complete(bench.predict(ctr, builder))))
        used = codebook_use(own, model.shape.global_codes).used
        found.append((auc, used, float(adjusted_rand_score(honest, own))))
    return found
