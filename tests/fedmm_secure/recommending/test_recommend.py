"""Top items for users: known ones, new ones, from models that stay in a market and from what a run published."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from fedmm_secure import FedMM, predict, recommend
from fedmm_secure.data.prepare import load_markets, prepare_one
from fedmm_secure.errors import DataError, RunDirectoryError
from fedmm_secure.federation.closed_run import ClosedRun
from fedmm_secure.recommending import recommend as module
from fedmm_secure.results.scorers import ReleasedScorer
from fedmm_secure.results.scoring import MarketScorer
from fedmm_secure.storage.run_directory import read_config
from tests.command_line import fedmm
from tests.conftest import TINY, tiny

MARKETS = {market.name: market for market in load_markets(tiny().data)}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    sections = {key: value for key, value in TINY.items() if key != "data"}
    sections["federation"] = {"rounds": 1}
    return FedMM(**sections).fit(MARKETS, tmp_path_factory.mktemp("fitted") / "run")


def rows_of(market, user, rows=None):
    """A user's rows as a table, times included."""
    own = np.flatnonzero(market.user == user) if rows is None else rows[market.user[rows] == user]
    return pd.DataFrame(
        {
            "user": market.user_ids[user],
            "item": market.item_ids[market.item[own]],
            "time": pd.to_datetime(market.time[own]),
        }
    )


def brute_force(scores, names, seen, k):
    """Items by score, those of ``seen`` left out."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    return [names[at] for at in order if np.isfinite(scores[at]) and names[at] not in seen][:k]


def test_top_items_are_those_that_predict_scores_highest(fitted):
    """With the rows that ``predict`` knows given as history, times included; every other pair is the same model's."""
    prepared = fitted._prepared["m0"]
    market, train = prepared.market, prepared.split.train
    for user in range(5):
        given = rows_of(market, user, train)
        name = market.user_ids[user]
        found = fitted.recommend("m0", [name], 7, given)
        scores = fitted.predict("m0", [name] * market.n_items, market.item_ids)
        assert found["item"].tolist() == brute_force(scores, market.item_ids, set(given["item"]), 7)
        at = pd.Index(market.item_ids).get_indexer(found["item"])
        np.testing.assert_allclose(found["score"], scores[at], rtol=1e-12)
        assert (found["history"] == len(given)).all()


def test_known_users_are_ranked_by_all_their_rows_and_get_nothing_they_have_met(fitted):
    market = MARKETS["m1"]
    users = list(market.user_ids[[7, 2, 2]])
    found = fitted.recommend("m1", users, 40)
    assert found["user"].drop_duplicates().tolist() == users[:2]
    for user in (7, 2):
        own = rows_of(market, user)
        mine = found[found["user"] == market.user_ids[user]]
        assert not set(mine["item"]) & set(own["item"])
        assert mine["rank"].tolist() == list(range(1, len(mine) + 1))
        assert (mine["history"] == len(own)).all()
        assert mine["score"].is_monotonic_decreasing
        again = fitted.recommend("m1", [market.user_ids[user]], 40, own)  # the same rows, as if they were new
        pd.testing.assert_frame_equal(again, mine.reset_index(drop=True))


def test_blocks_of_users_and_items_change_nothing(fitted, monkeypatch):
    users = list(MARKETS["m0"].user_ids[:9])
    whole = fitted.recommend("m0", users, 4)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 50)  # one user, in two runs of items
    pd.testing.assert_frame_equal(fitted.recommend("m0", users, 4), whole)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 90)
    pd.testing.assert_frame_equal(fitted.recommend("m0", users, 4), whole)


def test_unknown_items_say_nothing_and_who_has_nothing_else_gets_the_items_own_order(fitted):
    items = MARKETS["m0"].item_ids
    known = pd.DataFrame({"user": "new", "item": items[:3]})
    more = pd.concat([known, pd.DataFrame({"user": ["new", "odd"], "item": ["nothing", "nothing"]})])
    found = fitted.recommend("m0", ["odd", "new"], 5, more)
    assert found.groupby("user", sort=False)["history"].first().to_dict() == {"odd": 0, "new": 3}
    pd.testing.assert_frame_equal(
        fitted.recommend("m0", ["new"], 5, known), found[found["user"] == "new"].reset_index(drop=True)
    )


def test_what_a_user_did_changes_what_the_user_gets(fitted):
    items = MARKETS["m0"].item_ids
    history = pd.DataFrame({"user": ["a", "a", "b", "b"], "item": items[[0, 1, 5, 9]]})
    found = fitted.recommend("m0", ["a", "b"], 20, history)
    assert found[found.user == "a"]["item"].tolist() != found[found.user == "b"]["item"].tolist()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda model: model.recommend("m9", ["x"]), "market m9: the markets of"),
        (lambda model: model.recommend("m0", ["nobody"]), "no user 'nobody' in its data"),
        (lambda model: model.recommend("m0", ["x"], 0), "k: 0 items"),
        (lambda model: model.recommend("m0", ["x"], 1, pd.DataFrame({"user": ["x"]})), "no column 'item'"),
        (lambda model: model.recommend("m0", ["x"], 1, pd.DataFrame({"user": ["x"], "item": [None]})), "without item"),
        (
            lambda model: model.recommend("m0", ["x"], 1, pd.DataFrame({"user": ["x"], "item": ["y"], "time": [3]})),
            "are dates; give the same",
        ),
        (
            lambda model: model.recommend("m0", ["x"], 1, pd.DataFrame({"user": ["x"], "item": ["y"], "time": ["?"]})),
            "neither dates nor integers",
        ),
    ],
)
def test_what_cannot_be_used_is_named(fitted, ask, message):
    with pytest.raises(DataError, match=message):
        ask(fitted)


def test_a_model_with_user_ids_ranks_for_its_own_users_alone(tmp_path):
    sections = {key: value for key, value in TINY.items() if key != "data"}
    ctr = {"model": "deepfm", "features": ["user_id", "item_id"], "training": "in-sample", "max_epochs": 1}
    model = FedMM(**{**sections, "ctr": {**ctr, "baselines": []}, "federation": {"rounds": 1}}).fit(MARKETS)
    market = MARKETS["m0"]
    name = market.user_ids[3]
    scores = model.predict("m0", [name] * market.n_items, market.item_ids)
    seen = set(rows_of(market, 3)["item"])
    assert model.recommend("m0", [name], 5)["item"].tolist() == brute_force(scores, market.item_ids, seen, 5)
    with pytest.raises(DataError, match="user 'new': ctr"):
        model.recommend("m0", ["new"], 5, pd.DataFrame({"user": ["new"], "item": market.item_ids[:1]}))


# -- what a run published ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def handed_out(released_run, tmp_path_factory):
    """The session's run as a stranger has it: what was published, the configuration, catalogues, and no rows."""
    folder = tmp_path_factory.mktemp("handed-out")
    run = folder / "run"
    for part in ("transcript", "ledger"):
        shutil.copytree(released_run / part, run / part)
    shutil.copy(released_run / "config.yaml", run)
    data = folder / "data"
    data.mkdir()
    for market in MARKETS.values():
        (data / f"{market.name}.items.txt").write_text("".join(f"{item}\n" for item in market.item_ids))
    return run, data


def test_published_artefacts_alone_rank_as_the_market_does(released_run, handed_out, capsys):
    """A stranger's answer for some rows is what the market's own model says of the same user."""
    run, data = handed_out
    prepared = prepare_one(tiny().data, "m0")
    market, train = prepared.market, prepared.split.train
    given = rows_of(market, 4, train)
    path = data / "rows.csv"
    given.to_csv(path, index=False, date_format="%Y-%m-%d")
    status, out, err = fedmm(
        capsys, "recommend", run, "--market", "m0", "--history", path, "--data", data, "-k", "6", "--json"
    )
    assert (status, err) == (0, "")
    found = pd.DataFrame(json.loads(out))
    scorer = MarketScorer(released_run, read_config(released_run), prepared)
    scores = scorer([market.user_ids[4]] * market.n_items, market.item_ids)
    in_pool = np.isfinite(scores)
    expected = dict(zip(market.item_ids[in_pool], scores[in_pool], strict=True))
    assert len(found) == 6
    for item, score in zip(found["item"], found["score"], strict=True):
        assert item not in set(given["item"])
        assert item not in expected or score == pytest.approx(expected[item], rel=1e-12)
    assert sum(item in expected for item in found["item"]) > 3


def test_the_command_says_what_it_lacks(handed_out, capsys):
    run, data = handed_out
    others = data / "others.csv"
    others.write_text("user,item,time\nx,m1-i00001,2020-01-01\n")
    for arguments, message in (
        (["--market", "m0", "--history", others, "--data", data], "no row of --history names an item of m0"),
        (["--market", "m0"], "whom?"),
        (["--market", "m0", "--user", "x"], "where are the markets' files?"),
        (["--market", "m9", "--user", "x", "--data", data], "market m9"),
        (["--market", "m0", "--user", "x", "--data", data], "m0.csv"),
    ):
        status, _, err = fedmm(capsys, "recommend", run, *arguments)
        assert status == 2, err
        assert message in err
        assert err.count("\n") == 1


def test_a_run_that_has_not_finished_says_so(handed_out, tmp_path):
    run = shutil.copytree(handed_out[0], tmp_path / "run")
    ledger = run / "ledger" / "m0.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunDirectoryError, match="still open"):
        ReleasedScorer(ClosedRun(run, "m0"), read_config(run))
    ledger.unlink()
    with pytest.raises(RunDirectoryError, match="has market m0 finished"):
        ReleasedScorer(ClosedRun(run, "m0"), read_config(run))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"no config\.yaml"):
        recommend(tmp_path, "m0", ["x"])
    with pytest.raises(RunDirectoryError, match=r"no config\.yaml"):
        predict(tmp_path, "m0", ["x"], ["y"])
