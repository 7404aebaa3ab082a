"""Natural canary users: what the published models of a run show of candidates who were in it, or not.

A candidate's items are nobody else's. So what is published of them is noise alone where the candidate is out, and
noise around what the candidate weighs where it is in: the law of the audits of code, in a run, through the front door.
Of what is computed from noised releases (codes, scores of the CTR model) no law is known; there the coins carry the
test, as they carry the bounds on ε.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from scipy import sparse, special, stats

from attacks.auditing import LOST
from attacks.auditing.games import gaussian
from attacks.auditing.joint import joint_test
from attacks.auditing.laws import Values
from attacks.auditing.played import Played
from attacks.auditing.verdicts import AuditVerdict, auc, lower_bounds
from attacks.one_run import p_value
from fedmm_secure.collaborative.dp_svd import contributions, timed
from fedmm_secure.collaborative.shared_dp_svd import SharedDPSVDEmbedding
from fedmm_secure.data.canary_users import CanaryUsers
from fedmm_secure.data.catalogue import Catalogue
from fedmm_secure.data.market import IntArray, Market, history_matrix
from fedmm_secure.data.splits import leave_last_out
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.guarantee.stages import COUNTS, CTR, EMBEDDING, ITEM_CODES, MODEL
from fedmm_secure.quantization.codes import unit_rows
from fedmm_secure.quantization.rqvae import LossWeights
from fedmm_secure.recommending.accounts import accounts_of_rows, rows_of_frame
from fedmm_secure.results.scorers import ReleasedScorer
from privacy.accounting.guarantees import STATED, view_guarantee
from privacy.accounting.ledger import Entry, depended_on, stage_group
from privacy.accounting.tradeoff import view_curve
from privacy.mechanisms.counts import clip_rows
from privacy.mechanisms.discrete_gaussian import scale
from privacy.mechanisms.dp_svd import GRAM_LEVELS
from privacy.mechanisms.grid import Grid
from privacy.mechanisms.randomness import LEVELS

FEWEST_SEEN = 8  # candidates by whom a law is tested
COMPARED = 32  # items of others against whose scores that of a candidate's own is held
VIEW = "release"
SHOWS_NOTHING = "shows nothing"  # verdict where candidates are lost on the way
# what is read, and whose publications it follows from
READINGS: Mapping[str, tuple[str, ...]] = {
    "counts": (COUNTS,),
    "factors": (COUNTS, EMBEDDING),
    "codes": (COUNTS, EMBEDDING, MODEL, ITEM_CODES),
    "scores": (COUNTS, EMBEDDING, MODEL, ITEM_CODES, CTR),
}


@dataclass(frozen=True)
class CanaryReading:
    """What one kind of publication shows of candidates.

    Attributes:
        reading: which.
        claimed: ε of all that it follows from, at ``delta``.
        delta: that δ.
        candidates: how many.
        present: how many of them are in.
        auc: of scores that should tell who is in.
        low_fdp: 95 % lower bound on ε by f-DP in one run.
        low_one_run: the same by Steinke et al.
        p_value: of what was seen where the claim holds: by the coins and, where there is one, by the law of the noise.
        light: p-value of candidates who are in and weigh so little, where they weigh what they add; 1 without a law.
        level: at which it refutes.
        seen: in which direction it is furthest from what is stated, and how far.
    """

    reading: str
    claimed: float
    delta: float
    candidates: int
    present: int
    auc: float
    low_fdp: float
    low_one_run: float
    p_value: float
    light: float
    level: float
    seen: str

    @property
    def refuted(self) -> bool:
        """Whether the claim is."""
        return self.p_value <= self.level

    @property
    def lost(self) -> bool:
        """Whether candidates who are in do not weigh what they add, so that the reading shows nothing."""
        return self.light <= LOST * self.level

    @property
    def verdict(self) -> str:
        """In one word, or two."""
        if self.refuted:
            return AuditVerdict.VIOLATED.value
        return SHOWS_NOTHING if self.lost else AuditVerdict.NOT_REFUTED.value


@dataclass(frozen=True)
class Published:
    """What a run published of a market, and what it states of it.

    Attributes:
        plan: of the market.
        entries: of its ledger.
        scorer: its models.
        catalogue: its items, those of candidates among them.
    """

    plan: SpendingPlan
    entries: Sequence[Entry]
    scorer: ReleasedScorer
    catalogue: Catalogue


def read_canary_users(users: CanaryUsers, published: Published, level: float) -> Iterator[CanaryReading]:
    """Each reading; a false alarm in any of them has probability ``level`` at most.

    Where a law of the noise is known, a part of the reading's level goes to candidates that are lost on the way, and
    the rest is halved between the law and the coins.

    Raises:
        ConfigError: the catalogue has no item but those of candidates.
    """
    shown = _Shown(users, published)
    for reading, stages in READINGS.items():
        score, played = shown.of(reading)
        seen = [entry for entry in published.entries if stage_group(entry.stage) in stages and VIEW in entry.audience]
        entries = depended_on(published.entries, seen)
        claim, curve = view_guarantee(entries, VIEW, accountant=STATED), view_curve(entries, VIEW)
        if curve is None or claim.epsilon is None:
            continue  # no guarantee is claimed of it
        area = auc(score[users.member], score[~users.member])
        p, what, light = p_value(score, users.member, curve), f"coins: AUC {area:.3f}", 1.0
        if played is not None:
            alarm = joint_test(played)
            if alarm.p_value < p:
                what = f"{alarm.direction}: {alarm.seen}"
            p, light = min(1.0, 2.0 * min(p, alarm.p_value) / (1.0 - LOST)), light_p_value(played)
        bounds = lower_bounds(Played(users.member, score, score, score, score), claim.delta)
        counted = len(users.member), int(users.member.sum())
        yield CanaryReading(
            reading, claim.epsilon, claim.delta, *counted, area, *bounds, p, light, level / len(READINGS), what
        )


def light_p_value(played: Played) -> float:
    """Of candidates who are in and weigh so little, where each weighs what it adds: at most so."""
    inside, n_in = played.total[played.member], max(int(played.member.sum()), 1)
    return float(stats.norm.cdf(inside.sum() / np.sqrt(n_in) + np.sqrt(n_in) * played.slack))


@dataclass(frozen=True)
class _Shown:
    """Scores of candidates ``(n,)``, and what is known of their law."""

    users: CanaryUsers
    published: Published

    def of(self, reading: str) -> tuple[Values, Played | None]:
        """One reading's."""
        if reading == "counts":
            return self._counts.score, self._counts
        if reading == "factors":
            return self._counts.score + self._factors[0], self._factors[1]
        return (self._codes() if reading == "codes" else self._scores()), None

    @cached_property
    def _accounts(self) -> Market:
        """All candidates with the rows that they have where they are in."""
        users, items = self.users, self.users.rows(self.published.catalogue)
        rows = pd.DataFrame({"user": np.repeat(users.users, items.shape[1]), "item": items.ravel()})
        if users.time is not None:
            rows["time"] = pd.to_datetime(users.time, utc=True) if users.calendar else users.time
        return accounts_of_rows(users.market, rows_of_frame(rows, ()), self.published.catalogue)

    @cached_property
    def _trained(self) -> IntArray:
        """Those of the rows that a run trains on."""
        if self.published.plan.config.data.split == "leave-last-out":
            return leave_last_out(self._accounts).train
        return np.arange(self._accounts.n_rows)

    @cached_property
    def _place(self) -> tuple[IntArray, IntArray]:
        """Index of each candidate among the accounts ``(n,)``, and of its own items in the catalogue ``(n, OWN)``."""
        index = pd.Index(self._accounts.user_ids).get_indexer(pd.Index(self.users.users))
        items = self.users.items
        return np.asarray(index), self.published.catalogue.index(items.ravel()).reshape(items.shape)

    @cached_property
    def _counts(self) -> Played:
        """The published counts of a candidate's items, and when they were: along what the candidate adds to both."""
        accounts, (user, item), plan = self._accounts, self._place, self.published.plan
        counts, choices = self.published.scorer.embedding.counts, plan.config.privacy.contribution
        sigma, rows = plan.noise[COUNTS], self._trained
        weighted, moments = timed(contributions(accounts, rows, choices, sigma), accounts, rows, choices)
        parts, found = [weighted], counts.values
        if counts.moments is not None:
            parts.append(counts.time_weight * moments)
            found = np.concatenate([found, counts.moments])
            item = np.concatenate([item, item + len(counts.values)], axis=1)
        whole = clip_rows(sparse.csr_array(sparse.hstack(parts)))
        added = _entries(whole, user, item)
        length = np.linalg.norm(added, axis=1)
        seen = (added * found[item]).sum(axis=1) / length
        return gaussian(seen, self.users.member, sigma, length, 2.0 * np.sqrt(item.shape[1]) / scale(LEVELS))

    @cached_property
    def _factors(self) -> tuple[Values, Played | None]:
        """The published Gram matrix along what a candidate adds, where an item of its own is in: by noised counts."""
        embedding, (user, item) = self.published.scorer.embedding, self._place
        score = np.zeros(self.users.count)
        if embedding.gram_ is None or isinstance(embedding, SharedDPSVDEmbedding):
            return score, None
        place = np.searchsorted(embedding.items_, item)
        there = np.append(embedding.items_, -1)[place] == item
        rows = embedding.weighted(history_matrix(self._accounts, self._trained))
        added = np.where(there, _entries(rows, user, item), 0.0)
        chosen = (added > 0).any(axis=1)
        if int(chosen.sum()) < FEWEST_SEEN:
            return score, None
        sigma = self.published.plan.noise[EMBEDDING]
        roots = Grid.of(sigma, levels=GRAM_LEVELS).of_products()
        towards = added[chosen] / np.linalg.norm(added[chosen], axis=1, keepdims=True)
        own = np.where(there, place, 0)[chosen]  # where an item is not there, its weight is zero
        seen = np.einsum("ni,nij,nj->n", towards, embedding.gram_[own[:, :, None], own[:, None, :]], towards)
        length = np.square((roots.real(roots.cut(added[chosen])) * towards).sum(axis=1))
        # an entry of a row may be cut by one unit more
        slack = 2.0 * own.shape[1] / scale(GRAM_LEVELS) + 2.0 * np.sqrt(own.shape[1]) * roots.step / sigma
        played = gaussian(seen, self.users.member[chosen], sigma, length, slack)
        score[chosen] = played.score
        return score, played

    def _codes(self) -> Values:
        """How well the published RQ-VAE knows a candidate's embedding."""
        embedding, weights = self.published.scorer.embedding, LossWeights()
        histories = history_matrix(self._accounts, self._trained)
        rows = unit_rows(embedding.transform(histories)[self._place[0]])
        with torch.no_grad():
            losses = [model(rows, weights.soft_temperature).total(weights) for _, model in self.published.scorer.models]
        return -torch.stack(losses).mean(dim=0).double().numpy()

    def _scores(self) -> Values:
        """Log-odds of a candidate's first item above those of other candidates' first items."""
        (user, items), n = self._place, self.users.count
        item = items[:, 0]
        others = np.stack([np.roll(item, shift) for shift in range(1, min(COMPARED, n - 1) + 1)], axis=1)
        score = self.published.scorer.on(self._accounts)
        own = special.logit(score(user, item))
        rest = special.logit(score(np.repeat(user, others.shape[1]), others.ravel())).reshape(others.shape)
        return np.asarray(own - rest.mean(axis=1))


def _entries(rows: sparse.csr_array, user: IntArray, item: IntArray) -> Values:
    """Entries ``(n, k)`` of users' rows at items ``(n, k)``."""
    return np.asarray(rows[np.repeat(user, item.shape[1]), item.ravel()]).reshape(item.shape)
