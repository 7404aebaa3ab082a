"""A market that joins from a head trains on its rows without a budget, and chooses by exact figures of them.

``fedmm run`` without a budget is entered in the account of its data, so that no later report on the same rows claims a
bound. Joining is such a run, and leaves no line.
"""

import pytest

from experiments.runs.markets import synthesize_files
from fedmm_secure.config import config_from_data
from fedmm_secure.data.prepare import prepare_markets, prepare_one
from fedmm_secure.data.synthetic import SyntheticSpec
from fedmm_secure.federation.account import account_of, foresee
from fedmm_secure.federation.parties import market_sizes
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.joining.join import join_market
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage.run_directory import create
from tests.conftest import TINY, tiny
from tests.released import BASELINES, PRIVATE, RELEASE

HEAD = tiny(
    head={"trees": 1, "depth": 1, "shares": [1.0]}, federation={"rounds": 1}, ctr={"baselines": [], "max_epochs": 1}
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("head") / "run"
    create(directory, HEAD)
    run_pipeline(HEAD, prepare_markets(HEAD.data), directory)
    return directory


def earlier_runs(config, name, directory):
    """What `fedmm run` would warn of before a release on these rows."""
    account = account_of(config, directory)
    markets = {market: prepare_one(config.data, market) for market in config.data.names}
    plan = SpendingPlan.of(config, name, market_sizes(config, sorted(markets), markets))
    return foresee(account, "f" * 32, plan, markets[name])


def test_joining_counts_as_a_run_without_a_budget_on_the_market_s_rows(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDMM_ACCOUNT", str(tmp_path / "account"))
    folder = tmp_path / "data"
    files = synthesize_files(SyntheticSpec(**{**TINY["data"]["synthetic"], "markets": 4}), folder)
    markets = {name: file.model_dump(mode="json", exclude_defaults=True) for name, file in files.items()}
    data = {"root": str(folder), "markets": markets}
    release = config_from_data(
        {**TINY, "data": data, "embedding": PRIVATE, "ctr": BASELINES, "privacy": {**RELEASE, "catalogue": "file"}},
        source="test",
    )
    assert earlier_runs(release, "m3", tmp_path / "later").earlier == 0  # nobody has read the rows yet
    joined = join_market(run, HEAD, release.data, "m3", tmp_path / "m3")
    assert set(joined.validation) >= {"federation", "own"}  # what was chosen among, by exact figures of its rows
    found = earlier_runs(release, "m3", tmp_path / "later")
    assert found.earlier == found.without_bound == 1
