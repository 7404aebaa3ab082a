"""What contains a view is attacked with all that the view shows."""

import numpy as np
import pytest

from attacks.membership.evaluate import infer
from attacks.membership.queries import Queries
from attacks.membership.shadow import ShadowScores
from tests.curves import coins

MODELS = 8


@pytest.fixture(scope="module")
def queries(tiny_markets):
    return Queries.of(tiny_markets["m0"])


def attacked(queries, *, account=0.0, pairs=0.0, weights=0.0):
    """AUC by view and attack where accounts, single-item accounts and weights move by so much with membership."""
    member, rng = coins(MODELS, len(queries.rows))

    def moved(effect, inside):
        return (rng.normal(0, 2, inside.shape[1]) + effect * inside + rng.normal(size=inside.shape)).astype(np.float32)

    own = moved(account, member)
    shown = {
        "consumer": own,
        "consumer-context": rng.normal(size=(*member.shape, 5)).astype(np.float32),
        "consumer-pairs": np.stack([moved(pairs, member[:, queries.pairs.row]) for _ in range(2)], axis=2),
        "row-release": moved(weights, member)[:, :, None],
    }
    found = infer(ShadowScores({"fedmm": shown}, member, queries, "interaction", None))
    return {(inference.view, inference.attack): inference.metrics.auc.value for inference in found}


def strongest(found, view):
    return max(auc for (seen, _), auc in found.items() if seen == view)


def copied_account_alone(found):
    """As it was: the white box read the score of the copied account, and nothing else that a consumer is shown."""
    return found["consumer", "LiRA, empirical Bayes"]


@pytest.mark.parametrize("weights", [0.0, 1.0])
def test_the_white_box_is_never_weaker_than_the_accounts_that_it_contains(queries, weights):
    """Combining costs a hundredth where weights tell nothing, and gains where they tell something."""
    found = attacked(queries, account=0.5, pairs=0.3, weights=weights)
    assert found["consumer", "single-item accounts"] > 0.6  # an attack by themselves
    assert copied_account_alone(found) < strongest(found, "consumer") - 0.05
    assert found["release", "white box"] >= strongest(found, "consumer") + (0.02 if weights else -0.01)
