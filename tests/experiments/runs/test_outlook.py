"""Before a run spends, it says what compliance reports will refuse."""

import pytest

from experiments.runs.outlook import EVENT, OutlookListener, refusal
from fedmm_secure.config import config_from_data
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.federation.account import account_of
from fedmm_secure.federation.parties import open_federation
from fedmm_secure.pipeline import run_pipeline
from privacy.accounting.places import users_account
from tests.conftest import TINY, tiny
from tests.people import as_files

ALONE = {"earlier": 0, "without_bound": 0, "epsilon": 7.97}


def test_a_run_alone_within_its_budget_is_not_warned_of():
    assert refusal({"m0": ALONE}, 8.0) is None
    assert refusal({}, None) is None  # generated rows: nobody's
    assert refusal({}, 8.0) is None


@pytest.mark.parametrize(
    ("found", "limit", "text"),
    [
        ({"earlier": 1, "without_bound": 0, "epsilon": 11.2}, 8.0, "1 earlier run on the same data ε comes to 11.2"),
        (
            {"earlier": 2, "without_bound": 1, "epsilon": None},
            8.0,
            "1 earlier run on the same data had no budget, or other users (m1)",
        ),
        ({"earlier": 0, "without_bound": 0, "epsilon": None}, None, "this run has no budget"),
    ],
)
def test_what_a_report_will_refuse_is_said_with_numbers(found, limit, text):
    markets = {"m1": found} if limit is None else {"m0": ALONE, "m1": found}
    assert text in refusal(markets, limit)


def test_it_is_said_once_on_stderr(capsys):
    told = OutlookListener(8.0)
    told("started", {})
    told("outlook", {"markets": {"m0": {**ALONE, "earlier": 1, "epsilon": 11.2}}})
    told("outlook", {"markets": {"m0": ALONE}})
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), err.startswith("warning: together with 1 earlier run")) == ("", 1, True)


class StoppedError(Exception):
    pass


def test_runs_on_the_same_files_say_so_before_they_spend(tmp_path):
    budget = {"epsilon": 8, "protect": "release"}
    config = config_from_data(as_files(tmp_path / "markets", **TINY | {"privacy": budget}), source="test")
    raw = config_from_data(as_files(tmp_path / "markets", **TINY), source="test")
    markets = prepare_markets(config.data)

    def heard(settings, name):
        """What is said of a run that is stopped there; the account is as it was."""
        before, said = users_account().exists() and users_account().read_bytes(), []

        def stop(event, fields):
            if event == EVENT:
                said.append(refusal(fields["markets"], settings.privacy.epsilon))
                raise StoppedError

        with pytest.raises(StoppedError):
            run_pipeline(settings, prepare_markets(settings.data), tmp_path / name, stop)
        assert (users_account().exists() and users_account().read_bytes()) == before
        return said[0]

    def begin(settings, name):
        directory = tmp_path / name
        open_federation(settings, markets, directory, account=account_of(settings, directory))

    assert heard(config, "first") is None
    begin(config, "first")
    assert heard(config, "first") is None  # it goes on: the same run
    again = heard(config, "again")
    assert again.startswith("together with 1 earlier run on the same data ε comes to 1")
    assert "where this one alone has 8 (m0, m1, m2)" in again
    assert heard(raw, "raw").startswith("this run has no budget")
    begin(raw, "raw")
    assert heard(config, "again").startswith(
        "1 earlier run on the same data had no budget, or other users (m0, m1, m2)"
    )
    assert heard(tiny(privacy=budget), "generated") is None
