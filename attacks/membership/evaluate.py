"""Every membership attack on what shadow pipelines showed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from attacks.membership.scores import (
    SCORES,
    Confidences,
    MemberMatrix,
    ShadowEvidence,
    blocks,
    multi_query,
    ratios,
)
from attacks.membership.shadow import ShadowScores
from attacks.membership.users import codebook_attack, pool_rows, recommended_items, reference_recommendations
from attacks.metrics import MembershipMetrics, membership_metrics
from fedmm_secure.collaborative.svd import SVDEmbedding
from fedmm_secure.data.market import IntArray

PAIR_VIEWS = ("profile", "consumer")
REFERRED, REFERENCE = "profile-recommended", "consumer-recommended"
Shown = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Inference:
    """One attack on one target model.

    Attributes:
        target: name of the model; the federation itself under ``market`` and ``server``.
        view: what the adversary saw.
        attack: its name.
        scores: ``(n_models, n_units)``; those of each block made without its coins.
        member: of the same shape.
    """

    target: str
    view: str
    attack: str
    scores: Confidences
    member: MemberMatrix

    @cached_property
    def metrics(self) -> MembershipMetrics:
        """How well the scores tell members from others."""
        return membership_metrics(self.scores, self.member)


def infer(shadows: ShadowScores) -> Iterator[Inference]:
    """Scores of every attack for every target model and view that it shows.

    What a view shows, every attack on a view that contains it has too: the white box is attacked with the accounts of a
    consumer and the weights. A user's confidence is the mean over the user's rows: pooled first, scored then; where
    evidence is combined, also the other way round.
    """
    units = Units(shadows)
    for target, shown in shadows.observed.items():
        for view in PAIR_VIEWS:
            if view in shown:
                confidence = units.pooled(shown[view])
                for name, score in SCORES.items():
                    yield units.inference(target, view, name, score(confidence, units.member))
                for name, one in units.single(shown, view).items():
                    yield units.inference(target, view, name, one(units.models)[:, :, 0])
                yield units.inference(target, view, "multi-query LiRA", units.combined(units.account(shown, view)))
        if shadows.unit == "user" and {REFERRED, REFERENCE} <= shown.keys():
            yield units.inference(target, "profile", "reference recommendations", units.against_reference(shown))
        if "sums" in shown:
            yield units.inference(target, "release", "published sums", shown["sums"].astype(np.float64))
        weights = units.weights(shown)
        if weights:
            accounts = units.account(shown, "consumer") if "consumer" in shown else []
            yield units.inference(target, "release", "white box", units.combined([*accounts, *weights]))
        yield from units.codebooks(target, shown)


class Units:
    """What is asked about, rows or the users that have rows, and the evidence of each."""

    def __init__(self, shadows: ShadowScores) -> None:
        self.shadows = shadows
        self.users = np.unique(shadows.queries.user)
        self.member = shadows.member if shadows.unit == "interaction" else shadows.member[:, self.users]
        self.models = np.arange(len(self.member))

    @cached_property
    def known(self) -> NDArray[np.float64]:
        """Rows of the user and of the item, among those that may or may not have been trained on: ``(n_units, 2)``."""
        queries = self.shadows.queries
        rows_of_user = np.asarray(queries.full.sum(axis=1), dtype=np.float64).ravel()
        rows_of_item = np.asarray(queries.full.sum(axis=0), dtype=np.float64).ravel()
        facts = np.stack([rows_of_user[queries.user], rows_of_item[queries.item]], axis=1)
        return np.asarray(self.pooled(facts[None])[0])

    def account(self, shown: Shown, view: str) -> list[ShadowEvidence]:
        """All that the accounts of a view tell."""
        rows = np.concatenate([shown[view][:, :, None], shown[f"{view}-context"]], axis=2)
        statistics = self.pooled(rows)
        found = [ratios(statistics, self.member), *self.single(shown, view).values()]
        if self.shadows.unit == "user":
            found.append(pooled_ratios(rows.astype(np.float64), self.unit_of_row, self.member))
        return [*found, _usual(statistics[:, :, 0])]

    def single(self, shown: Shown, view: str) -> dict[str, ShadowEvidence]:
        """Evidence that is an attack by itself."""
        found: dict[str, ShadowEvidence] = {}
        if f"{view}-pairs" in shown:
            values = shown[f"{view}-pairs"].astype(np.float64)
            unit = self.unit_of_row[self.shadows.queries.pairs.row]
            found["single-item accounts"] = pooled_ratios(values[:, :, ::-1], unit, self.member)
        if self.shadows.unit == "user" and f"{view}-recommended" in shown:
            recommended = shown[f"{view}-recommended"].astype(np.float64)[:, self.users]
            vectors, centre = self._tastes
            found["recommendations"] = recommended_items(recommended, self.member, centre, vectors)
        return found

    def against_reference(self, shown: Shown) -> Confidences:
        """Scores by what users are recommended, beside accounts that copy theirs; of no shadow model."""
        vectors, centre = self._tastes
        own, copied = (shown[key].astype(np.float64)[:, self.users] for key in (REFERRED, REFERENCE))
        return reference_recommendations(own, copied, centre, vectors)

    def weights(self, shown: Shown) -> list[ShadowEvidence]:
        """What published models tell beside the scores that they give."""
        if self.shadows.unit == "interaction":
            statistics = shown.get("row-release")
        else:
            statistics = shown["user-release"][:, self.users] if "user-release" in shown else None
        found = [] if statistics is None else [ratios(statistics.astype(np.float64), self.member)]
        if "sums" in shown:
            sums = shown["sums"].astype(np.float64)[:, :, None]
            found.append(lambda models: sums[models])
        return found

    def codebooks(self, target: str, shown: Shown) -> Iterator[Inference]:
        """What global codewords tell: the sum of all markets, and what is left of it without those who collude.

        A single market takes out its own movement. Where single updates are opened, the target's own is what is left
        once all others are out.
        """
        if "latent" not in shown:
            return
        latent = shown["latent"].astype(np.float64)
        without = None
        if self.shadows.unit == "interaction":
            latent, without = latent[:, self.shadows.queries.user], shown["row-latent"].astype(np.float64)
        else:
            latent = latent[:, self.users]

        def found(view: str, attack: str, words: NDArray[np.float32]) -> Inference:
            scores = codebook_attack(latent, words.astype(np.float64), self.member, without)
            return self.inference(target, view, attack, scores)

        yield found("market", "codebook", shown["aggregate"])
        if "rest" not in shown:
            return
        rest, n_markets = shown["rest"], shown["rest"].shape[1] + 1
        yield found("market", "codebook, without its own", rest[:, 0])
        for colluding in sorted({(n_markets - 1) // 2, n_markets - 1} - {0, 1}):
            yield found("collusion", f"codebook, {colluding} of {n_markets} markets", rest[:, colluding - 1])
        if self.shadows.opened_by is not None:
            yield found(self.shadows.opened_by, "codebook", rest[:, -1])

    def combined(self, evidence: list[ShadowEvidence]) -> Confidences:
        """Scores by all of some evidence, and what is known of each unit beforehand."""
        return multi_query(evidence, self.member, self.known)

    def pooled(self, values: NDArray[np.floating]) -> Confidences:
        """Values of rows ``(n_models, n_rows, …)`` as values of units: of users, the means over their rows."""
        wide = values.astype(np.float64)
        if self.shadows.unit == "interaction":
            return wide
        return pool_rows(wide, self.shadows.queries.user)

    def inference(self, target: str, view: str, attack: str, scores: Confidences) -> Inference:
        """What an attack on a target found."""
        return Inference(target, view, attack, scores, self.member)

    @cached_property
    def unit_of_row(self) -> IntArray:
        """Number of the unit that each queried row belongs to."""
        return self.shadows.queries.units(self.shadows.unit)

    @cached_property
    def _tastes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Vectors of items, and the centre of each user's."""
        full = self.shadows.queries.full
        vectors = SVDEmbedding(16).fit(full).item_factors_
        count = np.maximum(np.asarray(full.sum(axis=1)), 1.0).reshape(-1, 1)
        return vectors, (np.asarray(full @ vectors) / count)[self.users]


def pooled_ratios(values: NDArray[np.float64], unit: IntArray, member: MemberMatrix) -> ShadowEvidence:
    """Scored first and pooled then: mean likelihood ratios of what a unit has several of; 0 for a unit without any.

    Args:
        values: ``(n_models, n, n_statistics)``.
        unit: of each, ``(n,)``.
        member: ``(n_models, n_units)``.
    """
    having, each = np.unique(unit), ratios(values, member[:, unit])

    def among(models: IntArray) -> NDArray[np.float64]:
        found = np.zeros((len(models), member.shape[1], values.shape[2]))
        if len(having):
            found[:, having] = pool_rows(each(models), unit)
        return found

    return among


def _usual(values: NDArray[np.float64]) -> ShadowEvidence:
    """What models show of a unit on average, ``(n_models, n_units)``: how likely an item is, whoever was trained on.

    Of the shadows of each block, as all evidence: the mean over all models has in it what the others of a block
    showed, and their scores would no longer be independent.
    """

    def among(models: IntArray) -> NDArray[np.float64]:
        found = np.empty((len(models), values.shape[1], 1))
        for targets, shadows in blocks(len(models)):
            found[targets] = values[models[shadows]].mean(0)[:, None]
        return found

    return among
