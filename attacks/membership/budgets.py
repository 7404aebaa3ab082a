"""Membership of a person by how many questions were asked about them: what a limit on queries would be worth.

A consumer asks about a row by the score of its item, in a new account that copies the user's other rows, or in an
account that holds one other item of the user. Neither account is the person's, and none is asked often: a service that
limits what an account may ask limits none of this. What is counted is queries about one target, row or user, whoever
asks; pairs that nobody has, which a score is compared with, are about nobody, serve all targets and are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.membership.evaluate import Inference, Shown, Units, pooled_ratios
from attacks.membership.queries import NEAR
from attacks.membership.scores import ShadowEvidence
from attacks.membership.shadow import ShadowScores
from fedmm_secure.data.market import IntArray

BUDGETS = (1, 2, 5, 10, 20, 50)
VIEW = "consumer"
EVERYTHING = "all queries"


@dataclass(frozen=True)
class BudgetedInference:
    """An attack that asks about each target so often, or less where there is no more to ask.

    Attributes:
        queries: mean number of them over targets.
        inference: what came of them; its name says how many they are at most.
    """

    queries: float
    inference: Inference


def infer_by_queries(shadows: ShadowScores, targets: tuple[str, ...]) -> Iterator[BudgetedInference]:
    """The consumer's attack on each target model by budgets, and with all that it asks, in increasing order.

    A budget is spent on the rarest items first: copied accounts before accounts with a single item. Budgets that no
    target exhausts are left out.
    """
    units = Units(shadows)
    plan = _Plan.of(units)
    for target in targets:
        shown = shadows.observed[target]
        if VIEW not in shown:
            continue
        for budget in BUDGETS:
            if budget < plan.total.max():
                asked = float(np.minimum(plan.total, budget).mean())
                scores = units.combined(plan.evidence(units, shown, budget))
                name = "1 query" if budget == 1 else f"at most {budget} queries"
                yield BudgetedInference(asked, units.inference(target, VIEW, name, scores))
        every = plan.total + len(shadows.queries.shown) + NEAR * plan.copies
        scores = units.combined(units.account(shown, VIEW))
        yield BudgetedInference(float(every.mean()), units.inference(target, VIEW, EVERYTHING, scores))


@dataclass(frozen=True)
class _Plan:
    """In which turn each query about a unit is asked.

    Attributes:
        row: turn of each row's question in a copied account, from 0 in each unit, ``(n_rows,)``.
        pair: turn of each pair, after those, ``(n_pairs,)``.
        copies: questions in copied accounts by unit, ``(n_units,)``.
        total: all planned questions by unit, ``(n_units,)``.
    """

    row: IntArray
    pair: IntArray
    copies: IntArray
    total: IntArray

    @classmethod
    def of(cls, units: Units) -> _Plan:
        queries = units.shadows.queries
        count = np.bincount(queries.item, minlength=queries.full.shape[1])
        unit, n_units = units.unit_of_row, units.member.shape[1]
        row = _turns(unit, count[queries.item])
        of_pair = unit[queries.pairs.row]
        partner = queries.pairs.items[queries.pairs.account]
        pair = _turns(of_pair, count[queries.item[queries.pairs.row]] + count[partner])
        copies = np.bincount(unit, minlength=n_units)
        return cls(row, copies[of_pair] + pair, copies, copies + np.bincount(of_pair, minlength=n_units))

    def evidence(self, units: Units, shown: Shown, budget: int) -> list[ShadowEvidence]:
        """What the first queries about each unit tell."""
        asked = np.flatnonzero(self.row < budget)
        copied = shown[VIEW].astype(np.float64)[:, asked, None]
        found = [pooled_ratios(copied, units.unit_of_row[asked], units.member)]
        asked = np.flatnonzero(self.pair < budget)
        if f"{VIEW}-pairs" in shown and len(asked):
            of_pair = units.unit_of_row[units.shadows.queries.pairs.row[asked]]
            found.append(pooled_ratios(shown[f"{VIEW}-pairs"].astype(np.float64)[:, asked], of_pair, units.member))
        return found


def _turns(unit: IntArray, rarity: NDArray[np.int64]) -> IntArray:
    """Place of each query among those of its unit, the rarest first."""
    order = np.lexsort((np.arange(len(unit)), rarity, unit))
    turns = np.empty(len(unit), dtype=np.int64)
    turns[order] = np.arange(len(unit)) - np.searchsorted(unit[order], unit[order])
    return turns
