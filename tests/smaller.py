"""Configurations of the documentation, on models that train in a second: changed below what a reader types."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from sklearn.ensemble import HistGradientBoostingClassifier

from attacks.membership import scores
from fedmm_secure.ctr.models.boosted import BoostedModel

TREES = 12


def smaller(values, changes):
    """A configuration with the changes, section by section; what has a budget keeps it."""
    found = dict(values)
    for key, change in changes.items():
        found[key] = smaller(found.get(key) or {}, change) if isinstance(change, dict) else change
    return found


@contextmanager
def fewer_trees() -> Iterator[None]:
    """Boosted trees of CTR models and of attackers are a dozen at most: where nothing is said of how good they are."""
    classifier = BoostedModel._classifier

    def of_model(self, iterations, *, stop):
        return classifier(self, min(iterations, TREES), stop=stop)

    def of_attacker(*, max_iter, **choices):
        return HistGradientBoostingClassifier(max_iter=min(max_iter, TREES), **choices)

    few = patch.object(BoostedModel, "_classifier", of_model)
    with few, patch.object(scores, "HistGradientBoostingClassifier", of_attacker):
        yield
