"""What contains a view is attacked with all that the view shows."""

import numpy as np
import pytest

from attacks.membership import evaluate
from attacks.membership.evaluate import infer
from attacks.membership.queries import Queries
from attacks.membership.shadow import ShadowScores
from tests.curves import coins

MODELS, FEWEST = 8, 5  # of five models two are a block


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


def everything_shown(queries, unit):
    """All that a pipeline may show, at random, and who is in each: ``(observed, member)``."""
    n_users, n_rows = queries.full.shape[0], len(queries.rows)
    member, rng = coins(FEWEST, n_rows if unit == "interaction" else n_users)

    def drawn(*shape):
        return rng.normal(size=(FEWEST, *shape)).astype(np.float32)

    def items():
        return rng.integers(0, queries.full.shape[1], size=(FEWEST, n_users, 4)).astype(np.float32)

    shown = {"latent": drawn(n_users, 3), "aggregate": drawn(4, 3), "rest": drawn(4, 4, 3), "sums": drawn(n_rows)}
    for view in ("profile", "consumer"):
        shown |= {view: drawn(n_rows), f"{view}-context": drawn(n_rows, 5)}
    shown["consumer-pairs"] = drawn(len(queries.pairs.row), 2)
    if unit == "interaction":
        return shown | {"row-release": drawn(n_rows, 2), "row-latent": drawn(n_rows, 3)}, member
    of_users = {"user-release": drawn(n_users, 2), "sums": drawn(len(np.unique(queries.user)))}
    return shown | of_users | {f"{view}-recommended": items() for view in ("profile", "consumer")}, member


def every_attack(queries, unit, shown, member):
    """Scores of the first model."""
    found = infer(ShadowScores({"fedmm": shown}, member, queries, unit, "server"))
    return {(one.view, one.attack): one.scores[0] for one in found}


def consumers_evidence(queries, unit, shown, member):
    """What classifiers are told of the first model."""
    units = evaluate.Units(ShadowScores({"fedmm": shown}, member, queries, unit, None))
    told = units.account(shown, "consumer")
    return {number: part(units.models)[0] for number, part in enumerate(told)}


def moved_by_its_block(queries, unit, made):
    """What of ``made`` changes with what another model of the first one's block showed, and who was in that."""
    shown, member = everything_shown(queries, unit)
    before = made(queries, unit, shown, member)
    shown = {key: value.copy() for key, value in shown.items()}
    for value in shown.values():
        value[1] = value[1, ::-1] if value.ndim > 2 else value[1] + 1.0 + np.arange(value.shape[1])
    member = member.copy()
    member[1] = ~member[1]
    after = made(queries, unit, shown, member)
    return len(before), {name for name, values in before.items() if not np.array_equal(values, after[name])}


@pytest.mark.parametrize(("unit", "attacks"), [("interaction", 22), ("user", 25)])
def test_nothing_that_others_of_a_block_show_moves_a_score(queries, unit, attacks):
    """What verdicts rest on: given the shadows, pipelines of a block are independent."""
    assert moved_by_its_block(queries, unit, every_attack) == (attacks, set())


def test_a_mean_over_all_models_did(queries, monkeypatch):
    """As it was: how likely a unit's item is, was read off the models under attack too."""
    assert moved_by_its_block(queries, "interaction", consumers_evidence) == (3, set())

    def over_all(values):
        return lambda models: np.broadcast_to(values.mean(0)[None, :, None], (len(models), values.shape[1], 1))

    monkeypatch.setattr(evaluate, "_usual", over_all)
    assert moved_by_its_block(queries, "interaction", consumers_evidence) == (3, {2})
