"""Shadow models of a recommender that somebody else wrote: fitted again on half of the rows or users, and asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from attacks.handlers.handler import Handler
from attacks.membership.observations import Confidence, Observed, observe_account, strangers
from attacks.membership.queries import Queries, fair_coins, halve
from attacks.membership.shadow import Progress, ShadowScores
from attacks.membership.units import Unit
from fedmm_secure.data.market import FloatArray, IntArray
from fedmm_secure.data.prepare import PreparedMarket
from fedmm_secure.randomness import numpy_generator


def foreign_shadows(
    handler: Handler,
    prepared: PreparedMarket,
    unit: Unit,
    n_shadows: int,
    *,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> ShadowScores:
    """Fit a model on each half and show its scores, in the ``profile`` view: accounts of the market's own users.

    Scores are standardised over the pairs that a model is asked, and taken for logits: their unit is the author's.
    """
    name, queries = prepared.market.name, Queries.of(prepared)
    n_units = len(prepared.split.train) if unit == "interaction" else prepared.market.n_users
    member = fair_coins(n_shadows, n_units, numpy_generator("foreign-shadow", name, unit))

    def ask(inside: NDArray[np.bool_]) -> Observed:
        half = halve(prepared, unit, inside)
        profiles = np.arange(half.market.n_users)
        if unit == "user":
            profiles = strangers(queries.full, inside, numpy_generator("strangers", name))
        users, items = _asked(queries, profiles)
        answers = handler.ask(half.market, half.split.train, users, items)
        return _shown(queries, profiles, _lookup(users, items, answers.scores, half.market.n_items))

    found: list[Observed] = []
    progress(0, n_shadows)
    with ThreadPoolExecutor(workers) as pool:  # each waits for a process
        for shown in pool.map(ask, member):
            found.append(shown)
            progress(len(found), n_shadows)
    observed = {key: np.stack([shown[key] for shown in found]) for key in found[0]}
    if unit == "interaction":
        member = member[:, np.isin(prepared.split.train, queries.rows)]
    return ShadowScores({handler.path.stem: observed}, member, queries, unit, None)


def _shown(queries: Queries, profiles: IntArray, score: Confidence) -> Observed:
    users = np.unique(queries.user)
    shown = observe_account(score, profiles[queries.user], profiles[users], queries, "profile")
    return {key: np.asarray(value, np.float32) for key, value in shown.items()}


def _asked(queries: Queries, profiles: IntArray) -> tuple[IntArray, IntArray]:
    """All pairs that an observation asks about, none twice, in order."""
    seen: list[IntArray] = []

    def note(users: IntArray, items: IntArray) -> FloatArray:
        seen.append(np.stack([users, items], axis=1))
        return np.zeros(len(users))

    _shown(queries, profiles, note)
    found = np.unique(np.concatenate(seen), axis=0)
    return found[:, 0], found[:, 1]


def _lookup(users: IntArray, items: IntArray, scores: FloatArray, n_items: int) -> Confidence:
    """The standardised score of each pair that was asked about."""
    keys, logits = users * n_items + items, (scores - scores.mean()) / max(float(scores.std()), 1e-12)
    return lambda user, item: np.asarray(logits[np.searchsorted(keys, user * n_items + item)])
