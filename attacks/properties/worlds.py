"""Property inference (Ateniese et al., IJSN 2015; Ganju et al., CCS 2018): does a market have many users of a kind?

The adversary trains the market's pipeline on users of which few or many are of the kind, learns to tell the two by what
a view shows, and is asked about pipelines that it did not learn from. Differential privacy for users does not bound
this: a share of a market is no single user's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from attacks.metrics import Estimate, proportion
from attacks.retraining.federations import Coded
from attacks.retraining.pipelines import Retraining, without_users
from fedmm_secure.data.market import FloatArray

FEW, MANY = 0.3, 0.7
FOLDS = 4
PROPERTY = "users of more rows than most"


@dataclass(frozen=True)
class PropertyInference:
    """How often a view tells which of two shares of a market's users are of a kind.

    Attributes:
        view: what was seen.
        property: the kind.
        worlds: pipelines, half of them with few such users, half with many.
        users: of each.
        accuracy: share that is told right; guessing tells half.
    """

    view: str
    property: str
    worlds: int
    users: int
    accuracy: Estimate


def infer_property(retraining: Retraining, worlds: int, seed: int, rng: np.random.Generator) -> list[PropertyInference]:
    """Tell worlds apart by the global codewords, as all markets see them, and by the item factors.

    Args:
        retraining: of the market.
        worlds: pipelines to train, at least ``2 * FOLDS``.
        seed: of initialisation and order, public.
        rng: draws users.
    """
    prepared = retraining.prepared
    rows = np.bincount(prepared.market.user[prepared.split.train], minlength=prepared.market.n_users)
    kind = rows > np.median(rows[rows > 0])
    many = np.arange(max(worlds, 2 * FOLDS)) % 2 == 1
    members = [_draw(kind, rows > 0, MANY if more else FEW, rng) for more in many]
    found = retraining.coded([without_users(prepared, own) for own in members], seed)
    users = int(members[0].sum())
    return [
        PropertyInference(view, PROPERTY, len(many), users, told_apart(features, many))
        for view, features in (("market", _codewords(found)), ("release", _weights(found)))
    ]


def _draw(
    kind: NDArray[np.bool_], there: NDArray[np.bool_], share: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Users ``(n_users,)``, as many in every world, of which a share is of the kind."""
    sides = [np.flatnonzero(there & kind), np.flatnonzero(there & ~kind)]
    size = int(min(len(side) for side in sides) / MANY)
    chosen = np.zeros(len(kind), dtype=bool)
    for side, part in zip(sides, (share, 1.0 - share), strict=True):
        chosen[rng.choice(side, round(size * part), replace=False)] = True
    return chosen


def told_apart(features: FloatArray, truth: NDArray[np.bool_]) -> Estimate:
    """Share of worlds ``(n,)`` that a classifier trained on the others tells right, by features ``(n, k)``."""
    classifier = make_pipeline(StandardScaler(), PCA(min(8, len(truth) // 2)), LogisticRegression())
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    guessed = cross_val_predict(classifier, features, truth, cv=folds)
    return proportion(int((guessed == truth).sum()), len(truth))


def _codewords(found: Sequence[Coded]) -> FloatArray:
    return np.stack([one.federated.aggregate.ravel() for one in found if one.federated is not None])


def _weights(found: Sequence[Coded]) -> FloatArray:
    """How long the factors of each item are: the same whatever the turn and the signs of the axes."""
    return np.stack([np.linalg.norm(one.embedding.item_factors_, axis=1) for one in found])
