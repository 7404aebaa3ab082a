"""Membership inference on a model of somebody else's, which remembers its rows, or knows none of them."""

import numpy as np
import pytest

from attacks.handlers.handler import Handler
from attacks.membership.evaluate import infer
from attacks.membership.foreign import foreign_shadows

REMEMBERS = """
def fit(rows):
    return {(int(user), int(item)) for user, item in zip(rows.user, rows.item)}

def score(model, users, items):
    return [float((int(user), int(item)) in model) for user, item in zip(users, items)]
"""
FORGETS = """
def fit(rows):
    return None

def score(model, users, items):
    return (users * 31 + items * 17) % 97 / 97.0
"""


def best_auc(tmp_path, prepared, text, unit):
    path = tmp_path / "theirs.py"
    path.write_text(text)
    told = []
    shadows = foreign_shadows(Handler(path), prepared, unit, 4, progress=lambda done, total: told.append(done))
    assert told == [0, 1, 2, 3, 4]
    found = {one.attack: one for one in infer(shadows)}
    assert {one.view for one in found.values()} == {"profile"}
    assert {one.target for one in found.values()} == {"theirs"}
    assert {"loss threshold", "LiRA", "RMIA", "multi-query LiRA"} <= set(found)
    return found


@pytest.mark.parametrize("unit", ["interaction", "user"])
def test_a_model_that_remembers_rows_is_told_apart(tmp_path, tiny_markets, unit):
    found = best_auc(tmp_path, tiny_markets["m0"], REMEMBERS, unit)
    assert found["loss threshold"].metrics.auc.value > 0.95


def test_a_model_that_knows_no_row_is_not(tmp_path, tiny_markets):
    found = best_auc(tmp_path, tiny_markets["m0"], FORGETS, "interaction")
    assert abs(found["loss threshold"].metrics.auc.value - 0.5) < 0.06
    assert abs(found["LiRA"].metrics.auc.value - 0.5) < 0.06
    assert np.isfinite(found["multi-query LiRA"].scores).all()
