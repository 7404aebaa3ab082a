"""A market whose rows leave nothing to train or measure on: it must answer as any other market does.

Which items have enough rows depends on single users' rows. The first version looked at them before it charged anything,
and a market that found too few refused to take part: an answer that nobody had paid for.
"""

import pytest

from experiments.deploy.homes import prepare_homes
from experiments.verification import verify_run
from fedmm_secure.data.prepare import load_markets, prepare, prepare_markets
from fedmm_secure.errors import DataError
from fedmm_secure.market_service import run_directories
from tests.dishonest import DishonestServer
from tests.faults import configuration

TOO_MANY = 10**6  # training interactions that no item has


def markets(**data):
    config = configuration("masked-ckks", 3, federation={"rounds": 1, "local_epochs": 1})
    return config.model_copy(update={"data": config.data.model_copy(update=data)})


def replies(root, config):
    """What a server hears of a run from its beginning to its end, and the services."""
    prepare_homes(config, root)
    server = DishonestServer(root)
    _, _, total = server.round(0, hellos=server.hellos())
    done = [server.ask(market, "finish", aggregate=total).done for market in server.markets]
    assert done == [True] * len(server.markets)
    return server


def shapes(server):
    return {market: [len(answer) for answer in server.seen[market]] for market in server.markets}


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    return replies(tmp_path_factory.mktemp("thin") / "f", markets(min_item_train=TOO_MANY))


def test_what_the_first_version_did_with_it():
    """It is still what the owner of all rows is told, in one process, before anything begins."""
    with pytest.raises(DataError, match=f"only 0 items have {TOO_MANY} training interactions; lower"):
        prepare_markets(markets(min_item_train=TOO_MANY).data)


def test_a_market_without_candidates_answers_as_any_other(thin, tmp_path):
    usual = replies(tmp_path / "usual", markets())
    assert shapes(thin) == shapes(usual)
    assert [thin.charges(market) for market in thin.markets] == [usual.charges(market) for market in usual.markets]
    for server in (thin, usual):
        assert not [event for events in server.logged.values() for event, _ in events if event == "refused"]


def test_its_owner_reads_why_and_gets_prior_scores(thin):
    market = thin.markets[0]
    (described,) = [fields for event, fields in thin.logged[market] if event == "market"]
    assert f"only 0 items have {TOO_MANY} training interactions" in described["lacking"]
    ((_, metrics),) = thin.services[market].conclude_finished()
    assert metrics["markets"][market]["auc"] is None
    (directory,) = run_directories(thin.homes.market(market) / "runs")
    assert verify_run(directory) == []


def test_candidates_of_one_kind_say_why_too():
    config = markets(label="like", like_threshold=-1.0, negatives_per_positive=1).data
    (market, *_) = load_markets(config)
    found = prepare(market, config)
    assert "part has no negatives among items" in found.lacking
    assert found.prior == 0.5


def test_predictions_outside_the_catalogue_are_the_prior_where_there_are_none_inside(thin):
    config = markets(min_item_train=TOO_MANY).data
    found = prepare(load_markets(config)[0], config)
    assert found.prior == 1 / (1 + config.negatives_per_positive)
    assert len(found.complete(found.test.label)) == len(found.whole.test) == 0
