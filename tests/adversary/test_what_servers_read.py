"""What a server has read over all runs on the data: one reads updates in the clear, the next one ciphertexts alone.

A report on the second run said of all runs that the server's ε is 0, as its own is.
"""

from dataclasses import replace
from unittest import mock

import pytest
from dp_accounting.dp_event import ComposedDpEvent

from experiments.compliance import build
from experiments.compliance.build import _all_runs
from experiments.compliance.judgement import claimed, claimed_epsilon
from fedmm_secure.config import config_from_data
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.federation.account import account_of
from fedmm_secure.federation.parties import open_federation
from fedmm_secure.guarantee.stages import CLAIMS, DECRYPTED_VIEWS
from privacy.accounting import account as accounts
from privacy.accounting.spendings import spent_to_data
from tests.adversary.test_compliance import document
from tests.conftest import TINY
from tests.people import as_files

VIEWS = CLAIMS["release"]


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """A configuration by the kind of its aggregation, and its first market."""
    sections = as_files(tmp_path_factory.mktemp("markets"), **TINY)
    sections["privacy"] |= {"protect": "release", "epsilon": 8}

    def configuration(kind):
        return config_from_data({**sections, "aggregation": {"kind": kind}}, source="test")

    return configuration, {"m0": prepare_markets(configuration("ckks").data)["m0"]}


@pytest.fixture
def reported(configured, tmp_path):
    """What a report says that the server learns over all runs of some kinds, and the markets; on the last of them."""
    configuration, markets = configured

    def found(kinds, known=None):
        for number, kind in enumerate(kinds):
            config, directory = configuration(kind), tmp_path / str(number)
            account = account_of(config, directory)
            federation = open_federation(config, markets, directory, account=account)
        own = {view: {"epsilon": 7.98} for view in DECRYPTED_VIEWS}
        own |= {"server": {"epsilon": 7.98 if kinds[-1] == "plaintext" else 0.0}}
        own["market"] |= {"delta": federation.plans["m0"].delta}
        earlier = (len(kinds) if known is None else known) - 1
        told = {**own, "with_earlier_runs": {"earlier_runs": earlier, **own}}
        runs = _all_runs(account, config, directory, "m0", told, VIEWS)
        assert runs.as_planned
        whole = document(epsilon=own["server"]["epsilon"], run={"aggregation": kinds[-1]}, runs=runs.model_dump())
        if kinds[-1] != "plaintext":
            views = whole.markets["m"].views
            views["server"] = views["server"].model_copy(update={"delta": 0.0})
        server = claimed_epsilon(whole, "m", "server")
        (figure,) = (one for one in claimed(whole) if one.view == "server")
        assert (figure.epsilon, figure.delta > 0) == (server, server != 0)
        return server, runs.epsilon["market"]

    return found


@pytest.mark.parametrize(
    ("kinds", "low", "high"),
    [
        (["ckks"], 0, 0),
        (["ckks", "masked-ckks"], 0, 0),
        (["plaintext", "masked-ckks"], 6, 8),
        (["ckks", "plaintext", "plaintext", "ckks"], 10, 13),
    ],
)
def test_what_it_read_in_other_runs_counts(reported, kinds, low, high):
    server, markets = reported(kinds)
    assert low <= server <= min(high, markets)


def test_as_it_was_it_had_read_nothing(reported):
    def deaf(run):
        return replace(run, events={**run.events, "server": ComposedDpEvent([])})

    with mock.patch.object(build, "_seen_by_servers", deaf):
        server, markets = reported(["plaintext", "ckks"])
    assert (server, markets > 10) == (0.0, True)


def test_where_an_account_does_not_say_it_may_have_read_all_that_markets_do(reported):
    def of_an_earlier_version(spending):
        return spent_to_data(replace(spending, events={view: spending.events[view] for view in DECRYPTED_VIEWS}))

    with mock.patch.object(accounts, "spent_to_data", of_an_earlier_version):
        server, markets = reported(["ckks", "ckks"])
    assert server == markets > 10


def test_what_the_account_does_not_know_of_has_no_figure(reported):
    server, _ = reported(["ckks"], known=2)
    assert server is None
