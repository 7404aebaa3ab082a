"""Rows that are read by somebody else's choices, and what is left behind by a join that does not come to an end.

``data.missing`` and ``data.on_bad_rows`` are of whoever has the rows: where another configuration's were taken, what
says that a user is missing became a user.
"""

import numpy as np
import pandas as pd
import pytest

from experiments.first_run.look import decide_pool
from fedmm_secure import FedMM
from fedmm_secure.config import DataConfig, MarketFile, SyntheticSpec, config_from_data, data_of_newcomer
from fedmm_secure.config.choices import MISSING
from fedmm_secure.config.sections import READING_KEYS
from fedmm_secure.data.loaders import load_rows
from fedmm_secure.data.prepare import load_history, load_one_market, prepare_one
from fedmm_secure.data.questions import UndecidedError
from fedmm_secure.data.synthetic import synthesize
from fedmm_secure.errors import ConfigError, DataError, RunDirectoryError
from fedmm_secure.joining import join
from fedmm_secure.recommending.accounts import rows_of_frame
from fedmm_secure.storage.run_directory import begin
from tests.command_line import fedmm
from tests.conftest import TINY, tiny

AGREED = {  # of DataConfig, what the markets of a federation agree on, whoever has the rows
    "shared_users", "shared_items", "shared_catalogue", "split", "label", "like_threshold", "min_item_train",
    "negatives", "negatives_per_positive", "candidate_seed",
}  # fmt: skip


def rows_text():
    pairs = (("-" if user == 11 else f"u{user}", f"i{(user + n) % 20}") for user in range(12) for n in range(14))
    return "user,item\n" + "".join(f"{user},{item}\n" for user, item in pairs)


@pytest.fixture
def own(tmp_path):
    """A market's own configuration, whose rows say "-" where nobody is known."""
    (tmp_path / "jp.csv").write_text(rows_text())
    file = MarketFile(path="jp.csv", user="user", item="item")
    return DataConfig(root=tmp_path, markets={"jp": file}, missing=("", "-"), on_bad_rows="skip")


# -- a market that joins -----------------------------------------------------------------------------------------------


def test_a_market_that_joins_reads_its_file_as_its_own_configuration_says(own):
    federation = tiny(data=TINY["data"]).data
    place = {"synthetic": None, "markets": own.markets, "root": own.root}
    assert "-" in load_one_market(federation.model_copy(update=place), "jp").user_ids  # as it was
    read = data_of_newcomer(federation, own, "jp")
    assert "-" not in load_one_market(read, "jp").user_ids
    assert {key: getattr(read, key) for key in READING_KEYS} == {key: getattr(own, key) for key in READING_KEYS}
    assert {key: getattr(read, key) for key in AGREED} == {key: getattr(federation, key) for key in AGREED}


def test_every_choice_about_data_is_the_owner_s_or_the_federation_s():
    """A new key has to be put in one of the two places."""
    assert set(DataConfig.model_fields) == AGREED | set(READING_KEYS)
    assert not AGREED & set(READING_KEYS)


@pytest.mark.parametrize(
    ("choice", "key"), [({"label": "like"}, "rating"), ({"split": "global-date"}, "time")], ids=["like", "date"]
)
def test_rows_that_lack_what_the_federation_asks_of_them_are_refused_before_they_are_read(own, tmp_path, choice, key):
    """A market without ratings in a run of likes: no label was 1, and the run was said to hold NaN."""
    federation = tiny(data={**TINY["data"], **choice}, head={"trees": 2, "depth": 2})
    place = {"synthetic": None, "markets": own.markets, "root": own.root}
    if key == "rating":
        unasked = prepare_one(federation.data.model_copy(update=place), "jp")
        assert "no positives" in unasked.lacking
        assert np.unique(unasked.test.label).tolist() in ([], [0.0])  # no AUC of these is a number
    with pytest.raises(
        ConfigError, match=rf"market jp cannot join: data\.\S+ {choice[next(iter(choice))]} needs .*{key}"
    ):
        join.join_market(tmp_path / "no run", federation, own, "jp", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def stubs(monkeypatch):
    """A run's head and codebook, of which nothing is used."""
    monkeypatch.setattr(join, "_head", lambda run, config: None)
    monkeypatch.setattr(join, "_global_codebook", lambda run, config, seed: None)


def joined(config, own, out, **more):
    return join.join_market(out.parent / "run", config, own, "jp", out, **more)


def test_rows_of_which_nothing_can_be_measured_are_refused_before_anything_is_written(own, tmp_path, stubs):
    config = tiny(data={**TINY["data"], "min_item_train": 10_000}, head={"trees": 2, "depth": 2})
    told = []
    with pytest.raises(DataError, match="market jp: only 0 items have 10000 training interactions"):
        joined(config, own, tmp_path / "out", told=told.append)
    assert told[0].whole.market.reading.bad == 14  # its owner reads why
    assert not (tmp_path / "out").exists()


def test_a_join_that_fails_leaves_nothing_in_its_way(own, tmp_path, stubs, monkeypatch):
    """Head, model and codes stayed, and so the next try was refused: the directory was "not empty"."""

    def disk_full(config, prepared, words, directory):
        (directory / "codes").write_text("half of them")
        assert directory.parent == tmp_path  # where it becomes the result in one step
        raise OSError(28, "No space left on device")

    config = tiny(
        data={**TINY["data"], "min_item_train": 1, "negatives_per_positive": 1}, head={"trees": 2, "depth": 2}
    )
    monkeypatch.setattr(join, "_judged", lambda *given: None)
    monkeypatch.setattr(join, "_codes", disk_full)
    for out in (tmp_path / "out", tmp_path / "empty"):
        if out.name == "empty":
            out.mkdir()
        with pytest.raises(RunDirectoryError, match="cannot be written: No space left"):
            joined(config, own, out)
        assert not out.exists() or not list(out.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"jp.csv", "empty"}


# -- new users of a market ---------------------------------------------------------------------------------------------


def test_rows_of_new_users_are_read_as_the_market_s_own_are(own, tmp_path):
    """``recommend --history`` took the missing spellings of the package, not of the run: "-" got recommendations."""
    file = MarketFile(path=tmp_path / "jp.csv", user="user", item="item")
    assert "-" in load_rows(file, "jp", on_bad_rows="error", missing=MISSING).user_ids
    assert "-" not in load_history(own, "jp", file.path).user_ids
    with pytest.raises(TypeError):
        load_rows(file, "jp")  # there is no choice that nobody made


@pytest.mark.parametrize("column", ["user", "item"])
def test_rows_in_a_table_are_held_to_the_same(own, column):
    rows = pd.DataFrame({"user": ["u1", "u2"], "item": ["i1", "i2"]})
    rows.loc[1, column] = " - "
    assert len(rows_of_frame(rows, MISSING).user) == 2
    with pytest.raises(DataError, match=f"a row without {column}: '-' says that it is missing"):
        rows_of_frame(rows, own.missing)


def test_the_command_reads_them_so(tmp_path, capsys):
    names = ("a", "b", "c")
    markets = {name: {"path": f"{name}.csv", "user": "user", "item": "item"} for name in names}
    data = {"markets": markets, "root": str(tmp_path), "missing": ["", "-"]}
    begin(tmp_path / "run", config_from_data({**TINY, "data": data}, source="test"))
    (tmp_path / "new.csv").write_text("user,item\n-,i1\n")
    options = ("--market", "a", "--history", tmp_path / "new.csv", "--data", tmp_path)
    status, _, err = fedmm(capsys, "recommend", tmp_path / "run", *options)
    assert status == 2
    assert "no user id: '-' says that it is missing" in err


# -- whoever prepares markets ------------------------------------------------------------------------------------------


def test_markets_of_which_nothing_can_be_measured_are_refused_wherever_one_s_own_rows_are(tmp_path):
    """Deployed markets alone take part without: others were told of AUCs that are no numbers, or asked nothing."""
    few = {found.market.name: found.market for found in synthesize(SyntheticSpec(users=20, items=120))}
    with pytest.raises(DataError, match="training interactions; lower"):
        FedMM(data={"min_item_train": 10_000}).fit(few, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UndecidedError, match="Lower it"):
        decide_pool(few, {})
