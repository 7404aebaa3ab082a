"""Pipelines trained side by side over processes, against a loop of single fits."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from attacks.membership.queries import Queries, fair_coins, halve
from attacks.membership.shadow import ShadowPlan, train_shadows
from attacks.metrics import Estimate, mean_estimate
from attacks.retraining.pipelines import Retraining
from experiments.presentation.steps import track
from experiments.runs.markets import choose_market
from fedmm_secure.config import Config
from fedmm_secure.config.choices import DeviceName
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.devices import chosen_device, devices_here
from fedmm_secure.randomness import numpy_generator
from fedmm_secure.storage.files import Store

LOOPED = 6  # single fits that a repetition times


@dataclass(frozen=True)
class ShadowCost:
    """Speed of shadow training, and whether it changes what an attack sees.

    Attributes:
        target: the attacked model.
        device: where RQ-VAEs and networks trained.
        looped: models a minute of a loop of single fits, at the faster number of threads.
        together: models a minute side by side, over processes, start of processes included.
        speed_up: of the two, paired by repetition.
        auc_looped: mean AUC of the loss threshold over the looped models.
        auc_together: the same over the models trained together.
        difference: of the two, paired by repetition.
    """

    target: str
    device: DeviceName
    looped: Estimate
    together: Estimate
    speed_up: Estimate
    auc_looped: Estimate
    auc_together: Estimate
    difference: Estimate


def bench_shadows(config: Config, market: str, target: str, models: int, repetitions: int) -> list[ShadowCost]:
    """Both ways in turn, ``repetitions`` times, on fresh halves of one market; on each device that is there."""
    return [
        _bench(config.model_copy(update={"device": device}), market, target, models, repetitions)
        for device in devices_here()
    ]


def _bench(config: Config, market: str, target: str, models: int, repetitions: int) -> ShadowCost:
    markets = prepare_markets(config.data)
    choose_market(market, {name: prepared.market.n_users for name, prepared in markets.items()})
    retraining = Retraining(config, markets, market, (target,), {}, {name: {} for name in markets})
    plan = ShadowPlan(retraining)
    _ = retraining.other_embeddings  # both ways find them there
    threads = _faster_threads(plan)
    rates, aucs = [], []
    for repetition in track(f"repetitions, {target}", range(repetitions)):
        looped = _looped(plan, LOOPED, threads, repetition + 1)
        together = _together(plan, models, repetition + 1)
        rates.append((looped[0], together[0]))
        aucs.append((looped[1], together[1]))
    speed, auc = np.array(rates), np.array(aucs)
    return ShadowCost(
        target,
        chosen_device(config.device),
        mean_estimate(speed[:, 0]),
        mean_estimate(speed[:, 1]),
        mean_estimate(speed[:, 1] / speed[:, 0]),
        mean_estimate(auc[:, 0]),
        mean_estimate(auc[:, 1]),
        mean_estimate(auc[:, 1] - auc[:, 0]),
    )


def _faster_threads(plan: ShadowPlan) -> int:
    """Threads with which single fits are faster: a loop could use all cores, or one."""
    cores = os.cpu_count() or 1
    _looped(plan, 1, 1, 0)  # what is loaded on first use is not part of the comparison
    return max((1, cores), key=lambda threads: _looped(plan, 2, threads, 0)[0])


def _looped(plan: ShadowPlan, models: int, threads: int, seed: int) -> tuple[float, float]:
    """Models a minute, and the mean AUC of the loss threshold."""
    prepared = plan.retraining.prepared
    train = prepared.split.train
    member = fair_coins(models, len(train), numpy_generator("bench", seed))
    queries = Queries.of(prepared)
    torch.set_num_threads(threads)
    start = time.perf_counter()
    found = [plan.train([halve(prepared, "interaction", own)], queries, 0, together=False)[0] for own in member]
    minutes = (time.perf_counter() - start) / 60.0
    torch.set_num_threads(1)
    asked = np.isin(train, queries.rows)
    scores = np.stack([answers[plan.retraining.targets[0]]["profile"] for answers in found])
    return models / minutes, _auc(scores, member[:, asked])


def _together(plan: ShadowPlan, models: int, seed: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="fedmm-bench-") as scratch:
        start = time.perf_counter()
        found = train_shadows(plan, n_shadows=models, store=Store(Path(scratch)), seed=seed)
        minutes = (time.perf_counter() - start) / 60.0
    return models / minutes, _auc(found.observed[plan.retraining.targets[0]]["profile"], found.member)


def _auc(scores: np.ndarray, member: np.ndarray) -> float:
    return float(np.mean([roc_auc_score(inside, own) for inside, own in zip(member, scores, strict=True)]))
