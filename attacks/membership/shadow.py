"""Shadow pipelines: every stage that depended on the target market's rows is trained again on half of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from attacks.membership.observations import Observed, observe, strangers
from attacks.membership.queries import Queries, fair_coins, halve
from attacks.membership.sums import published_sums
from attacks.membership.units import Unit
from attacks.retraining.pipelines import Retraining, Trained, recipe_by_name
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.executors.base import Executor
from fedmm_secure.executors.processes import WorkerProcesses
from fedmm_secure.randomness import numpy_generator
from fedmm_secure.storage.files import Arrays, Store

Progress = Callable[[int, int], None]
OBSERVED = 2  # which observations are kept: pipelines that an earlier version asked for less are trained again
GROUP = 16  # pipelines trained side by side: more share overhead no better, and outgrow the processor's cache


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
        retraining: of the market under attack.
        unit: whether halves are drawn of rows or of users.
    """

    retraining: Retraining
    unit: Unit = "interaction"

    def train(
        self, halves: Sequence[PreparedMarket], queries: Queries, seed: int, *, together: bool = True
    ) -> list[dict[str, Observed]]:
        """Train on each half of the market; returns what each target model shows of the queries."""
        found: list[dict[str, Observed]] = [{} for _ in halves]
        for target, models in self.retraining.train(halves, seed, together=together):
            for answers, trained in zip(found, models, strict=True):
                answers[target] = self._observe(trained, queries)
        return found

    def _observe(self, trained: Trained, queries: Queries) -> Observed:
        half = trained.prepared
        profiles = np.arange(half.market.n_users)
        if self.unit == "user":
            known = np.isin(profiles, half.market.user[half.split.train])
            profiles = strangers(queries.full, known, numpy_generator("strangers", half.market.name))
        found = observe(trained, profiles, queries)
        whole, choices = self.retraining.prepared, self.retraining.config.privacy.contribution
        sums = published_sums(trained, whole, queries, self.unit, choices)
        return found if sums is None else found | {"sums": sums.members().astype(np.float32)}


def train_shadows(
    plan: ShadowPlan,
    *,
    n_shadows: int,
    store: Store,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
    executor: Executor | None = None,
) -> ShadowScores:
    """Train shadow pipelines on random halves of one market; kept in ``store`` group by group.

    The candidate pool, the split, the seed and the other markets stay as they are. Whatever an ``executor`` trains
    elsewhere, by default processes here as configured, this process alone writes to ``store``.
    """
    retraining = plan.retraining
    prepared = retraining.prepared
    n_units = len(prepared.split.train) if plan.unit == "interaction" else prepared.market.n_users
    member = fair_coins(n_shadows, n_units, numpy_generator("shadow", retraining.market, plan.unit, seed))
    queries = Queries.of(prepared)
    targets = "+".join(sorted(retraining.targets))
    folder = f"shadows/{retraining.market}/{plan.unit}/{targets}/coins-{n_shadows}-{OBSERVED}"
    # with noise they are trained one by one: then each is told of, and kept, when it is done
    size = 1 if retraining.trains_alone else min(GROUP, -(-n_shadows // retraining.config.workers))
    groups = [range(start, min(start + size, n_shadows)) for start in range(0, n_shadows, size)]
    federated = any(recipe_by_name(retraining.config, target).codes == "federated" for target in retraining.targets)
    if federated and not retraining.trains_alone:
        _ = retraining.other_embeddings  # fitted here once; they travel to the workers with the plan
    there = [store.path(_name(folder, index)).exists() for index in range(n_shadows)]
    missing = [group for group in groups if not all(there[index] for index in group)]
    tasks = [(member[group.start : group.stop],) for group in missing]
    done = sum(there)
    progress(done, n_shadows)
    running = (executor or WorkerProcesses(retraining.config.workers)).run(_trained, (plan, queries), tasks, rows=True)
    for ended in running:
        group = missing[ended.index]
        for index, flat in zip(group, ended.result(), strict=True):
            store.arrays(_name(folder, index), partial(dict, flat))
        done += sum(not there[index] for index in group)
        progress(done, n_shadows)
    kept = [store.arrays(_name(folder, index), dict) for index in range(n_shadows)]
    observed = {
        target: {
            key.split("/", 1)[1]: np.stack([arrays[key] for arrays in kept])
            for key in kept[0]
            if key.split("/", 1)[0] == target
        }
        for target in retraining.targets
    }
    if plan.unit == "interaction":
        member = member[:, np.isin(prepared.split.train, queries.rows)]
    return ShadowScores(observed, member, queries, plan.unit, retraining.config.aggregation.traits.opened_by)


def _name(folder: str, index: int) -> str:
    return f"{folder}/{index:04d}"


def _trained(shared: tuple[ShadowPlan, Queries], member: NDArray[np.bool_]) -> list[Arrays]:
    """What each pipeline of a group shows, by target and view."""
    torch.set_num_threads(1)  # processes share the cores
    plan, queries = shared
    halves = [halve(plan.retraining.prepared, plan.unit, own) for own in member]
    # the configuration is public, and so is the run's seed of initialisation and order (never that of noise)
    found = plan.train(halves, queries, plan.retraining.config.seed[0])
    return [
        {f"{target}/{key}": value for target, observed in answers.items() for key, value in observed.items()}
        for answers in found
    ]
