"""``fedmm attack --model`` as a user types it."""

import json
from unittest.mock import patch

import numpy as np
import pytest
import yaml

from tests.command_line import fedmm
from tests.conftest import TINY

# as the documentation's example, without the libraries that each of its processes imports for a second
TRUNCATED_SVD = """
import numpy as np


def fit(rows):
    table = np.zeros((rows.n_users, rows.n_items))
    np.add.at(table, (rows.user, rows.item), 1.0)
    of_items = np.linalg.svd(table, full_matrices=False)[2][: min(32, rows.n_items - 1)].T
    return table @ of_items, of_items


def score(model, users, items):
    of_users, of_items = model
    return (of_users[users] * of_items[items]).sum(1)


def embed(model, users):
    return model[0][users]
"""


@pytest.fixture
def typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "theirs.py").write_text(TRUNCATED_SVD)
    return ["attack", "config.yaml", "--model", "theirs.py", "--market", "m0", "--shadows", 4, "--unit", "interaction"]


def test_a_model_of_somebody_elses_is_attacked_and_what_is_found_kept(typed, tmp_path, capsys):
    with patch("attacks.membership.evaluate.multi_query", lambda evidence, member, known: np.zeros(member.shape)):
        status, out, err = fedmm(capsys, *typed, "--quiet")
    assert status == 0
    assert "can do whatever you can do" in err
    assert "membership inference" in out
    assert "embeddings, linear map" in out
    kept = json.loads((tmp_path / "attacks-theirs" / "m0.json").read_text())
    assert (kept["model"], kept["market"]) == ("theirs.py", "m0")
    assert {found["view"] for found in kept["results"]["membership"]} == {"profile"}
    assert all(found["bound"] is None for found in kept["results"]["membership"])
    (inverted,) = kept["results"]["histories"]
    assert inverted["advantage"]["low"] > 0.0  # 32 factors of 40 items keep nearly every row


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--risks"], "drop --attack, --risks"),
        (["--market", "mars"], "--market mars"),
        (["--model", "nobodys.py"], "nobodys.py: no such file"),
    ],
)
def test_a_mistake_takes_one_line(typed, more, said, capsys):
    status, out, err = fedmm(capsys, *typed, *more, "--quiet")
    assert (status, out) == (2, "")
    assert said in err.splitlines()[-1]
