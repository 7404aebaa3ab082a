"""Files of strangers and of one's own that cost gigabytes, never end, or are read as something else in silence.

Each test says what has to hold. Those that are marked do not hold yet: they are strict, so that a mend is noticed.
"""

import json
import os
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import HistGradientBoostingClassifier

from experiments.deploy.key_plans import plan_for
from experiments.runs import tracking
from fedmm_secure.ctr.features import FeatureSchema
from fedmm_secure.ctr.models.boosted import BoostedChoices, BoostedModel
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.aggregation_plan import AggregationPlan
from fedmm_secure.federation.transcript import Transcript, read_record
from fedmm_secure.guarantee.multipliers import MarketSize
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.account_file import AccountError
from privacy.foreign import ForeignFileError
from tests.command_line import call
from tests.conftest import tiny

broken = pytest.mark.xfail(strict=True, raises=(AssertionError, RecursionError, pytest.fail.Exception))


# -- privacy accounts of others ----------------------------------------------------------------------------------------


@pytest.fixture
def account(tmp_path):
    """An account with its first line, as somebody hands it out."""
    found = PrivacyAccount(tmp_path / "privacy.account")
    found.fingerprint([b"row"])
    return found


@broken
def test_an_account_whose_key_is_a_pipe_ends_in_a_line(account):
    """Whoever opened it waited for ever: accounts were not read by the loader of what others wrote."""
    path = account.path.with_name("privacy.account.key")
    path.unlink()
    os.mkfifo(path)
    said = []

    def read():
        try:
            account.spendings("0")
        except AccountError as error:
            said.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(3)
    waits = reader.is_alive()
    if waits:
        os.close(os.open(path, os.O_WRONLY))  # let it go
        reader.join(3)
    assert not waits
    assert len(said) == 1


@broken
def test_an_account_that_is_nested_without_end_ends_in_a_line(account):
    with account.path.open("ab") as file:
        file.write(b"[" * 100_000 + b"]" * 100_000 + b"\n")
    with pytest.raises(AccountError):
        account.spendings("0")


# -- configurations of others ------------------------------------------------------------------------------------------


@broken
@pytest.mark.parametrize(
    "sections",
    [
        {"data": {"synthetic": {"users": 10**9}}},
        {"data": {"synthetic": {"items": 10**9}}},
        {"quantizer": {"hidden_dim": 10**9}},
        {"ctr": {"hidden": [10**6, 10**6]}},
        {"federation": {"local_epochs": 10**9}},
    ],
    ids=json.dumps,
)
def test_what_a_run_costs_its_reader_is_bounded(sections):
    """``fedmm recommend`` and ``join`` make markets and models of the sizes that a stranger's config.yaml names."""
    with pytest.raises(ConfigError):
        tiny(**sections)


# -- models of others --------------------------------------------------------------------------------------------------


@broken
@pytest.mark.parametrize("child", [0, 2**31], ids=["a cycle, which never ends", "memory of others, a crash"])
def test_trees_that_lead_elsewhere_are_not_walked(tmp_path, child):
    """``fedmm recommend RUN`` ended with SIGSEGV, or not at all: scikit-learn follows what a node says."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 2))
    trees = HistGradientBoostingClassifier(max_iter=2).fit(features, features[:, 0] > 0)
    for (predictor,) in trees._predictors:
        nodes = predictor.nodes.copy()
        nodes["is_leaf"][0], nodes["left"][0], nodes["right"][0] = 0, child, child
        predictor.nodes = nodes
    with pytest.raises(ForeignFileError):
        BoostedModel(FeatureSchema((), (), ("a", "b")), BoostedChoices(), 0).read(
            skops.io.dumps(trees), tmp_path / "ctr-0.skops"
        )


@broken
def test_a_publication_that_was_changed_is_not_scored_with(tmp_path):
    """``recommend`` read records of the size that the index says, and never compared the hash beside it."""
    transcript = Transcript(tmp_path)
    of = {
        "kind": "publication",
        "stage": "counts",
        "round": 0,
        "sender": "a",
        "visible_to": ("release",),
        "receivers": 0,
    }
    transcript.add(b"as published", **of)
    (record,) = transcript.records
    (tmp_path / record.file).write_bytes(b"as published"[::-1])
    with pytest.raises(ForeignFileError):
        read_record(tmp_path, record)


# -- keys --------------------------------------------------------------------------------------------------------------


@broken
def test_a_market_that_takes_another_s_place_changes_the_plan():
    """As many markets as before, other sizes: the new key was made for the noise of those that had left."""
    config = tiny(privacy={"epsilon": 8, "distributed_noise": True, "quantizer": {"steps_per_round": 1}})
    before = {"aa": (80, 60), "bb": (80, 60), "cc": (80, 60)}
    after = {"aa": (80, 60), "bb": (80, 60), "dd": (20_000, 9000)}
    plan, right = (
        AggregationPlan.of(config, {name: MarketSize(*size) for name, size in sizes.items()})
        for sizes in (before, after)
    )
    assert plan.sum_bound != right.sum_bound
    bundle = SimpleNamespace(aggregation=plan.public())
    with pytest.raises(ConfigError):
        plan_for(bundle, sorted(after), after, None)


@broken
def test_two_cards_of_one_name_found_no_federation(tmp_path):
    for folder, name in (("aa", "aa"), ("bb", "bb"), ("other", "bb"), ("cc", "cc"), ("server", "server")):
        assert call("keys", "join", name, "--keys", str(tmp_path / folder)) == 0
    cards = [
        word for folder in ("bb", "other", "cc", "server") for word in ("--card", str(tmp_path / folder / "card.json"))
    ]
    found = call("keys", "init", "synthetic", "--market", "aa", "--keys", str(tmp_path / "aa"), *cards)
    assert found == 2


# -- trackers ----------------------------------------------------------------------------------------------------------


@broken
def test_a_tracker_of_this_machine_asks_nobody_else(tmp_path, monkeypatch):
    """``--track mlflow`` looked up MLflow's own collector, under an id of the installation that it kept in the home."""
    utils = pytest.importorskip("mlflow.telemetry.utils")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(utils, "_IS_IN_CI_ENV_OR_TESTING", False)  # a user's machine is neither
    asked = []
    monkeypatch.setattr("mlflow.start_run", lambda **_: asked.append(utils.is_telemetry_disabled()) or nullcontext())
    with tracking.mlflow_tracker(tmp_path):
        pass
    assert asked == [True]
