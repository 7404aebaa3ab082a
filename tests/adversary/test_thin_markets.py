"""A market whose rows leave nothing to train or measure on, or cannot be read: no answer may say so.

Which items have enough rows depends on single users' rows. The first version looked at them before it charged anything,
and a market that found too few refused to take part: an answer that nobody had paid for. The second read its file once
all had agreed: one row that cannot be read, and the market's first update failed before anything was charged.
"""

import shutil

import pytest

from experiments.deploy import market as market_process
from experiments.deploy.homes import prepare_homes
from experiments.verification import verify_run
from fedmm_secure.config import MarketFile
from fedmm_secure.data.loaders import load_market
from fedmm_secure.data.prepare import load_markets, load_one_market, prepare, prepare_markets
from fedmm_secure.errors import ConfigError, DataError
from fedmm_secure.federation.parties import market_sizes
from fedmm_secure.service.market_service import MarketService, run_directories
from tests.dishonest import DishonestServer
from tests.faults import configuration

TOO_MANY = 10**6  # training interactions that no item has


def markets(**data):
    config = configuration("masked-ckks", 3, federation={"rounds": 1, "local_epochs": 1})
    return config.model_copy(update={"data": config.data.model_copy(update=data)})


def replies(root, config):
    """What a server hears of a run from its beginning to its end, and the services."""
    prepare_homes(config, root)
    return heard(DishonestServer(root))


def heard(server):
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


@pytest.fixture(scope="module")
def founded(tmp_path_factory):
    """Homes in which nothing has been asked yet."""
    root = tmp_path_factory.mktemp("founded") / "f"
    prepare_homes(markets(), root)
    return root


@pytest.fixture(scope="module")
def usual(founded, tmp_path_factory):
    return heard(moved(founded, tmp_path_factory.mktemp("usual") / "f"))


def moved(founded, root):
    """The same federation at another place, with its own copy of the rows."""
    shutil.copytree(founded, root, symlinks=True)
    for path in root.rglob("config.yaml"):
        path.write_text(path.read_text().replace(str(founded), str(root)))
    return DishonestServer(root)


def test_a_market_without_candidates_answers_as_any_other(thin, usual):
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


# -- one row -----------------------------------------------------------------------------------------------------------


def unreadable(fields):
    return fields | {list(fields)[-1]: "yesterday"}


def newcomer(fields):
    return fields | {next(iter(fields)): "newcomer"}


ROWS = {
    "a time that is none": (unreadable, DataError, "yesterday"),
    "a user more than the bundle says": (newcomer, ConfigError, "the federation's bundle states"),
}


def spoil(server, change):
    """Add a row to the first market's file: its first one, changed."""
    (path,) = (server.homes.market(server.markets[0]) / "data").rglob("*.csv")
    header, first = (line.split(",") for line in path.read_text().splitlines()[:2])
    with path.open("a") as file:
        file.write(",".join(change(dict(zip(header, first, strict=True))).values()) + "\n")


class LateService(MarketService):
    """As it was: the file is read once all have agreed."""

    def _open(self, run):
        if run not in self._runs:
            self._data = prepare(load_one_market(self._config.data, self.market), self._config.data)
            sizes = {self.market: self._data}
            market_sizes(self._config, self._member.bundle.markets, sizes, self._member.bundle.sizes)
        return super()._open(run)


@pytest.mark.parametrize("row", ROWS)
def test_no_row_changes_an_answer(founded, usual, tmp_path, row):
    change, error, message = ROWS[row]
    server = moved(founded, tmp_path / "f")
    spoil(server, change)
    assert shapes(heard(server)) == shapes(usual)
    with pytest.raises(error, match=message):  # its operator is told, before anybody is answered
        server.restart(server.markets[0])


@pytest.mark.parametrize("row", ROWS)
def test_what_the_second_version_answered_for_a_row(founded, tmp_path, monkeypatch, row):
    monkeypatch.setattr(market_process, "MarketService", LateService)
    server = moved(founded, tmp_path / "f")
    spoil(server, ROWS[row][0])
    order = server.order(0)
    statements = server.state(order, hellos=server.hellos())
    assert all(statements.values())
    answer = server.ask(server.markets[0], "update", order=order, statements=statements)
    assert answer.absent == "failed; its operator's log says why"
    assert server.charges(server.markets[0]) == 0


def test_how_many_items_private_rows_name_refuses_nobody(tmp_path):
    """It did where the catalogue is yet to be discovered; items that are declared to be public are counted."""
    path = tmp_path / "m.csv"
    path.write_text("user,item\n" + "".join(f"u{user},i{user % 3}\n" for user in range(20)))
    config = markets()
    found = prepare(load_market(MarketFile(path=path, user="user", item="item"), "m"), config.data)
    discovered = config.model_copy(
        update={"privacy": config.privacy.model_copy(update={"epsilon": 8.0, "catalogue": "discovered"})}
    )
    assert market_sizes(discovered, ["m"], {"m": found})["m"].items == 0
    with pytest.raises(DataError, match="only 3 items; a market needs at least 10"):
        market_sizes(config, ["m"], {"m": found})
