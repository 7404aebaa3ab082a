"""A market whose rows leave nothing to train or measure on, or cannot be read: no answer may say so.

Which items have enough rows depends on single users' rows. The first version looked at them before it charged anything,
and a market that found too few refused to take part: an answer that nobody had paid for. The second read its file once
all had agreed: one row that cannot be read, and the market's first update failed before anything was charged.
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from experiments.deploy import market as market_process
from experiments.deploy.homes import prepare_homes
from experiments.verification import examine_run, verify_run
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.config import MarketFile
from fedmm_secure.ctr.market_models import train_market
from fedmm_secure.data.catalogue import Catalogue
from fedmm_secure.data.loaders import load_market
from fedmm_secure.data.market import build_market
from fedmm_secure.data.prepare import load_markets, load_one_market, prepare, prepare_markets
from fedmm_secure.errors import ConfigError, DataError, RunDirectoryError
from fedmm_secure.federation.closed_run import ClosedRun
from fedmm_secure.federation.closing import private_files
from fedmm_secure.federation.parties import market_sizes
from fedmm_secure.quantization.build import model_for
from fedmm_secure.service.market_service import MarketService, run_directories
from fedmm_secure.storage.layout import RunDirectory
from fedmm_secure.storage.run_directory import read_config
from privacy.accounting.ledger import read_ledger
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


def concluded(server):
    """The first market's run directory, and its ledger, once it is over."""
    market = server.markets[0]
    server.services[market].conclude_finished()
    (directory,) = run_directories(server.homes.market(market) / "runs")
    return directory, read_ledger(RunDirectory(directory).ledger(market))


def test_its_ledger_names_the_files_that_any_ledger_names(thin, usual):
    """The ledger is handed out, and says nothing of users: it named no CTR model where rows had left none."""
    (scant, content), (rich, other) = concluded(thin), concluded(usual)
    assert content.kinds == other.kinds
    assert content.closing["private"].keys() == other.closing["private"].keys()
    market, there = thin.markets[0], [set(map(str, names(run))) for run in (scant, rich)]
    assert there[1] - there[0] == {f"models/{market}/ctr-0.pt"}  # what was named is what is there: the attack works


def names(run):
    """As it was: what a last line named."""
    market = run.parents[1].name
    return [path.relative_to(run) for path in private_files(run, read_config(run), market)]


def test_its_owner_is_not_told_of_files_that_never_were_and_nobody_else_can_tell(thin):
    directory, _ = concluded(thin)
    (missing,) = [note for note in examine_run(directory).notes if "not shown" in note] or [""]
    assert "ctr-0" not in missing
    with pytest.raises(RunDirectoryError, match="the run left none"):
        ClosedRun(directory, thin.markets[0]).file(RunDirectory(directory).ctr(thin.markets[0], 0))
    path = RunDirectory(directory).ctr(thin.markets[0], 0)
    try:
        path.write_bytes(b"put there later")
        assert [finding for finding in verify_run(directory) if "not the one that was signed for" in finding.what]
    finally:
        path.unlink()


def met(each, more=0):
    """A market whose users have so many rows each, the first one ``more``, and its configuration."""
    config = markets(min_item_train=1)
    config = config.model_copy(update={"ctr": config.ctr.model_copy(update={"model": "boosted", "baselines": ()})})
    rows = [(user, (user + n) % 14, n) for user in range(40) for n in range(each + more * (user == 0))]
    users, items, times = zip(*rows, strict=True)
    names = [f"u{user:02d}" for user in users], [f"i{item:02d}" for item in items]
    market = build_market("m0", *names, None, np.array(times), catalogue=Catalogue.of("file", set(names[1])))
    return prepare(market, config.data), config


def predicted(prepared, config, directory):
    """What the market's own models say of its test pairs."""
    embedding = fit_embedding(prepared, config.embedding)
    quantizers = {seed: model_for(config, embedding) for seed in config.seed}
    return train_market(prepared, embedding, quantizers, config, directory, None)[1]


def test_one_users_second_training_row_does_not_decide_whether_a_run_ends(tmp_path):
    """As it was: without any, a run failed once its counts, codes and models were charged, and released no model."""
    (thin, config), (enough, _) = met(3), met(3, more=1)
    with pytest.raises(ValueError, match="0 sample"):
        predicted(replace(thin, lacking=None), config, tmp_path / "before")
    assert "the train part has no positives" in thin.lacking
    assert enough.lacking is None
    silent, found = predicted(thin, config, tmp_path / "thin"), predicted(enough, config, tmp_path / "enough")
    assert silent.keys() == found.keys()
    assert {float(value) for models in silent.values() for values in models for value in values} == {thin.prior}
    assert all(np.isfinite(values).all() for values in found["fedmm"])


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
