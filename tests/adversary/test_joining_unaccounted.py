"""A market that joins from a head trains on its rows without a budget, and chooses by exact figures of them.

``fedmm run`` without a budget is entered in the account of its data, so that no later report on the same rows claims a
bound. Joining is such a run, and left no line.
"""

import ast
import json
from pathlib import Path

import pytest

from experiments.runs.markets import synthesize_files
from fedmm_secure.config import config_from_data
from fedmm_secure.data.prepare import prepare_markets, prepare_one
from fedmm_secure.data.synthetic import SyntheticSpec
from fedmm_secure.federation.account import account_of
from fedmm_secure.federation.foresight import foresee
from fedmm_secure.federation.parties import market_sizes
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.joining.join import join_market
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage.run_directory import create
from privacy.accounting.spendings import RunState
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
    return foresee(account, "f" * 32, plan, markets[name], RunState("start"))


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
    with monkeypatch.context() as patch:  # the attack works where nothing is entered
        patch.setattr("fedmm_secure.joining.join.enter_without_bound", lambda *_: None)
        join_market(run, HEAD, release.data, "m3", tmp_path / "as it was")
        assert earlier_runs(release, "m3", tmp_path / "later").earlier == 0
    joined = join_market(run, HEAD, release.data, "m3", tmp_path / "m3")
    assert set(joined.validation) >= {"federation", "own"}  # what was chosen among, by exact figures of its rows
    found = earlier_runs(release, "m3", tmp_path / "later")
    assert found.earlier == found.without_bound == 1
    kept = json.loads((tmp_path / "m3" / "joined.json").read_text())
    assert kept["epsilon"] is None
    assert "without a budget" in kept["epsilon_note"]
    assert earlier_runs(release, "m1", tmp_path / "later").earlier == 0  # of the others nothing was read


ENTERED = "entered in the account of the rows"
READING = {
    "experiments/assessment/attack.py": "the owner's: results are exact, in no guarantee, and documented as such",
    "experiments/assessment/audit.py": "sizes; games are played with made-up rows",
    "experiments/assessment/foreign.py": "the owner's: results are exact, in no guarantee, and documented as such",
    "experiments/benchmarks/drift.py": ENTERED,
    "experiments/benchmarks/ctr/measure.py": ENTERED,
    "experiments/benchmarks/joining.py": ENTERED,
    "experiments/benchmarks/shadows.py": "prints seconds and whether two ways of training agree",
    "experiments/commands/budget.py": "sizes",
    "experiments/commands/data.py": "the owner's: counts what was read, trains nothing",
    "experiments/deploy/homes.py": "sizes",
    "experiments/deploy/in_process.py": ENTERED,
    "experiments/first_run/look.py": "the owner's: looks at files, trains nothing",
    "experiments/runs/canary_files.py": "an auditor's: writes them again beside canary users, trains nothing",
    "experiments/runs/execution.py": ENTERED,
    "experiments/runs/markets.py": "the owner's: looks at files, trains nothing",
    "experiments/verification/replay.py": "an auditor's: draws again what was charged, and says where it differs",
    "fedmm_secure/api.py": ENTERED,
    "fedmm_secure/data/prepare.py": "the reader itself",
    "fedmm_secure/heads/generated.py": "generated rows, of nobody, whatever it is asked for",
    "fedmm_secure/joining/join.py": ENTERED,
    "fedmm_secure/recommending/recommend.py": "the owner's: one user's rows for that user, trains nothing",
    "fedmm_secure/service/market_service.py": ENTERED,
}
READERS = {"prepare", "prepare_markets", "prepare_one", "load_market", "load_markets", "load_one_market"}
ENTRANCES = {"MarketRun", "enter_without_bound", "open_federation", "run_pipeline", "execute", "look_ahead"}


def names_in(path):
    return {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}


def test_whatever_reads_peoples_rows_is_entered_or_says_why_not():
    """A command that trains on rows has to go through the account: one that is new shows up here."""
    root = Path(__file__).parents[2]
    packages = (root / name for name in ("fedmm_secure", "attacks", "experiments"))
    found = {
        path.relative_to(root).as_posix(): names_in(path) for package in packages for path in package.rglob("*.py")
    }
    assert {name for name, used in found.items() if used & READERS} == set(READING)
    for name, why in READING.items():
        assert (why != ENTERED) or found[name] & ENTRANCES, name
