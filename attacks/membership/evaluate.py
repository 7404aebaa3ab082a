"""Every membership attack on what shadow pipelines showed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attacks.membership.scores import SCORES, Confidences, Membership, combine, multi_query
from attacks.membership.shadow import ShadowScores
from attacks.membership.users import codebook_attack, pool_rows, recommender_attack
from attacks.metrics import MembershipMetrics, membership_metrics
from fedmm_secure.collaborative.svd import SVDEmbedding

PAIR_VIEWS = ("profile", "consumer")


@dataclass(frozen=True)
class Inference:
    """One attack on one target model.

    Attributes:
        target: name of the model; the federation itself under ``market`` and ``server``.
        view: what the adversary saw.
        attack: its name.
        scores: ``(n_models, n_units)``.
        member: of the same shape.
    """

    target: str
    view: str
    attack: str
    scores: Confidences
    member: Membership

    @cached_property
    def metrics(self) -> MembershipMetrics:
        return membership_metrics(self.scores, self.member)


def infer(shadows: ShadowScores) -> Iterator[Inference]:
    """Scores of every attack for every target model and view that it shows.

    A user's confidence is the mean over the user's rows: pooled first, scored then.
    """
    units = _Units(shadows)
    for target, observed in shadows.observed.items():
        for view in PAIR_VIEWS:
            if view in observed:
                confidence = units.pooled(observed[view])
                for name, score in SCORES.items():
                    yield units.inference(target, view, name, score(confidence, units.member))
                context = units.pooled(observed[f"{view}-context"])
                statistics = np.concatenate([confidence[:, :, None], context], axis=2)
                yield units.inference(
                    target, view, "multi-query LiRA", multi_query(statistics, units.member, units.known)
                )
        yield from _white_box(units, target, observed)
        if shadows.unit == "user":
            yield from _of_users(units, target, observed)


class _Units:
    """What is asked about: rows, or the users that have rows."""

    def __init__(self, shadows: ShadowScores) -> None:
        self.shadows = shadows
        self.users = np.unique(shadows.queries.user)
        self.member = shadows.member if shadows.unit == "interaction" else shadows.member[:, self.users]

    @cached_property
    def known(self) -> NDArray[np.float64]:
        """Rows of the user and of the item, among those that may or may not have been trained on: ``(n_units, 2)``."""
        queries = self.shadows.queries
        rows_of_user = np.asarray(queries.full.sum(axis=1), dtype=np.float64).ravel()
        rows_of_item = np.asarray(queries.full.sum(axis=0), dtype=np.float64).ravel()
        facts = np.stack([rows_of_user[queries.user], rows_of_item[queries.item]], axis=1)
        return np.asarray(self.pooled(facts[None])[0])

    def pooled(self, values: NDArray[np.floating]) -> Confidences:
        wide = values.astype(np.float64)
        if self.shadows.unit == "interaction":
            return wide
        return pool_rows(wide, self.shadows.queries.user)

    def inference(self, target: str, view: str, attack: str, scores: Confidences) -> Inference:
        return Inference(target, view, attack, scores, self.member)


def _white_box(units: _Units, target: str, observed: dict[str, NDArray[np.float32]]) -> Iterator[Inference]:
    if units.shadows.unit == "interaction":
        if "release" in observed:
            scores = combine(observed["release"].astype(np.float64), units.member)
            yield units.inference(target, "release", "white box, rows", scores)
        return
    parts = []
    if "consumer" in observed:
        parts.append(units.pooled(observed["consumer"])[:, :, None])
    if "user-release" in observed:
        parts.append(observed["user-release"].astype(np.float64)[:, units.users])
    if parts:
        scores = combine(np.concatenate(parts, axis=2), units.member)
        yield units.inference(target, "release", "white box, users", scores)


def _of_users(units: _Units, target: str, observed: dict[str, NDArray[np.float32]]) -> Iterator[Inference]:
    queries, users = units.shadows.queries, units.users
    vectors = SVDEmbedding(16).fit(queries.full).item_factors_
    count = np.maximum(np.asarray(queries.full.sum(axis=1)), 1.0).reshape(-1, 1)
    centre = np.asarray(queries.full @ vectors) / count
    for view in PAIR_VIEWS:
        if f"{view}-recommended" not in observed:
            continue
        recommended = observed[f"{view}-recommended"].astype(np.float64)[:, users]
        scores = recommender_attack(recommended, units.member, centre[users], vectors)
        yield units.inference(target, view, "recommendations", scores)
    if "latent" in observed:
        latent = observed["latent"].astype(np.float64)[:, users]
        for key, seen_by in (("aggregate", "market"), ("own", units.shadows.opened_by)):
            if key in observed and seen_by is not None:
                scores = codebook_attack(latent, observed[key].astype(np.float64), units.member)
                yield units.inference(target, seen_by, "codebook", scores)
