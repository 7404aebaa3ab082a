"""How much a consumer learns by how often it asks: budgets are kept, and more questions tell more."""

import numpy as np
import pytest

from attacks.membership.budgets import BUDGETS, EVERYTHING, infer_by_queries
from attacks.membership.queries import Queries
from attacks.membership.shadow import ShadowScores
from tests.curves import coins

MODELS = 8


@pytest.fixture(scope="module")
def queries(tiny_markets):
    return Queries.of(tiny_markets["m0"])


def by_budget(queries, unit, effect, pairs=0.0):
    """Results by budget, where each answer moves by ``effect`` with membership, independently of all others."""
    n_units = len(queries.rows) if unit == "interaction" else queries.full.shape[0]
    member, rng = coins(MODELS, n_units)
    of_row = np.arange(len(queries.rows)) if unit == "interaction" else queries.user

    def moved(inside, effect):
        return (rng.normal(0, 2, inside.shape[1]) + effect * inside + rng.normal(size=inside.shape)).astype(np.float32)

    rows, asked = member[:, of_row], member[:, of_row[queries.pairs.row]]
    shown = {
        "consumer": moved(rows, effect),
        "consumer-context": rng.normal(size=(*rows.shape, 5)).astype(np.float32),
        "consumer-pairs": np.stack([moved(asked, pairs) for _ in range(2)], axis=2),
    }
    found = infer_by_queries(ShadowScores({"fedmm": shown}, member, queries, unit, None), ("fedmm",))
    return {one.inference.attack: one for one in found}


@pytest.fixture(scope="module")
def silent(queries):
    """Of users about whom no answer says anything."""
    return by_budget(queries, "user", 0.0)


@pytest.fixture(scope="module")
def told(queries):
    """Of rows whose one copied account tells nothing, and whose pairs all."""
    return by_budget(queries, "interaction", 0.0, pairs=1.5)


def auc(one):
    return one.inference.metrics.auc


def test_no_budget_is_exceeded_and_a_user_has_more_to_be_asked_about_than_a_row(silent, told):
    users, rows = silent, told
    for found in (users, rows):
        means = [one.queries for one in found.values()]
        assert means == sorted(means)
        assert all(mean <= budget for budget, mean in zip(BUDGETS, means[:-1], strict=False))
    assert list(users)[:3] == ["1 query", "at most 2 queries", "at most 5 queries"]
    assert (list(users)[-1], users["1 query"].queries) == (EVERYTHING, 1.0)
    assert "at most 20 queries" not in rows  # one in a copied account, and eight partners
    assert users["at most 10 queries"].queries < 10  # some users have few rows
    assert users[EVERYTHING].queries > 100


def test_questions_beyond_a_budget_are_not_looked_at(told):
    assert auc(told["1 query"]).low < 0.5 < auc(told["1 query"]).high
    assert auc(told["at most 2 queries"]).low > 0.6


def test_more_questions_about_a_user_tell_more(queries):
    found = by_budget(queries, "user", 0.7, pairs=0.3)
    values = [auc(one).value for one in found.values()]
    assert values[0] + 0.1 < values[2] < values[3] + 0.02
    assert found["at most 10 queries"].inference.view == "consumer"


def test_where_answers_say_nothing_no_number_of_them_does(silent):
    for one in silent.values():
        assert auc(one).low < 0.5 < auc(one).high
