"""Ways to make a market compute on private rows more often than its ledger says, or to lose what it was charged."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from dp_accounting.dp_event import ComposedDpEvent

from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.errors import LostResultError
from fedmm_secure.federation.account import account_of, spent_on_same_data
from fedmm_secure.federation.client import MarketClient
from fedmm_secure.federation.in_process import connect
from fedmm_secure.federation.orders import Order, OrderError
from fedmm_secure.federation.parties import make_clients, open_federation
from fedmm_secure.pipeline import embed_markets, run_pipeline
from privacy.accounting.account_file import AccountError
from privacy.accounting.accountants import pld_epsilon
from privacy.accounting.ledger import LedgerError, read_ledger
from privacy.accounting.lines import ConcurrentWriteError
from privacy.accounting.places import users_account
from privacy.aggregation import AggregationError
from privacy.mechanisms.randomness import NoiseSource
from tests.conftest import tiny
from tests.parties import agree
from tests.people import of_people

STAGE = "quantizer/0"
FAILING = 5


def private(**more):
    return tiny(embedding={"kind": "svd"}, privacy={"epsilon": 8.0}, aggregation={"kind": "masked-ckks"}, **more)


class Trainings:
    """Counts what private rows were read for: distinct keys of noise that reached the training."""

    def __init__(self, monkeypatch):
        self.keys, honest = [], MarketClient._train

        def watched(client, round, source):
            self.keys.append(source._key)
            return honest(client, round, source)

        monkeypatch.setattr(MarketClient, "_train", watched)

    @property
    def distinct(self):
        return len(set(self.keys))


@pytest.fixture
def clients(tiny_markets, tmp_path):
    config = private()
    federation = open_federation(config, tiny_markets, tmp_path)
    embeddings = {name: fit_embedding(prepared, config.embedding) for name, prepared in tiny_markets.items()}
    found = make_clients(federation, 0, embeddings, {})
    connect(federation)
    return found


def weights(client):
    return torch.cat([parameter.detach().ravel() for parameter in client.trainer.model.parameters()])


def order(attempt=0, cohort=("m0", "m1", "m2"), round=0):
    return Order(STAGE, round, attempt, cohort)


# -- orders that fail after the training -------------------------------------------------------------------------


def broken_update(client, order):
    """As it was: train first, and find out afterwards whether the message can be made and the ledger written."""
    generator = torch.Generator().manual_seed(0)
    client.trainer.train_round(generator, warm_up=False, noise=NoiseSource.from_entropy())
    client.door.protect(client.plan.spending.round(0, order.round, order.attempt), np.zeros(32, np.int64), order.cohort)
    client.door.begin(client.plan.spending.round(0, order.round, order.attempt))


@pytest.mark.parametrize("reason", ["attempt", "hello"])
def test_orders_that_fail_train_nothing_that_is_not_charged(clients, monkeypatch, reason):
    client, bad = clients[0], order(attempt=-1) if reason == "attempt" else order()
    agree(clients, order())
    if reason == "hello":  # of one market, so that nothing can be masked
        client.door.channel.aggregator.inner.masks.peers = {}

    before = weights(client)
    with pytest.raises((AggregationError, ValueError, Exception)):
        broken_update(client, bad)
    assert not torch.equal(weights(client), before)  # the attack: moved by private rows ...
    assert client.door.ledger.charges == []  # ... and nothing was charged
    client._load()

    seen = Trainings(monkeypatch)
    for _ in range(FAILING):
        with pytest.raises((OrderError, AggregationError)):
            client.local_update(bad, print)
    assert seen.keys == []
    assert torch.equal(weights(client), before)
    assert client.door.ledger.charges == []


def test_failures_between_training_and_sending_repeat_one_computation(clients, monkeypatch):
    """Whatever fails once a round was charged: model and noise are those of the same single computation."""
    client, seen = clients[0], Trainings(monkeypatch)
    agree(clients, order())
    before, sent = weights(client), []

    def fails(*arguments, **options):
        raise OSError("disk full")

    for place in ("fedmm_secure.federation.round_client.write_atomic", "fedmm_secure.federation.door.pack"):
        for _ in range(FAILING):
            with monkeypatch.context() as patch:
                patch.setattr(place, fails)
                with pytest.raises(OSError, match="disk full"):
                    client.local_update(order(), sent.append)
            assert torch.equal(weights(client), before)
    client.local_update(order(), sent.append)
    assert len(sent) == 1
    assert len(seen.keys) == 2 * FAILING + 1
    assert seen.distinct == len(client.door.ledger.charges) == 1


# -- a charge that is lost -----------------------------------------------------------------------------------------


def test_a_ledger_that_fails_once_costs_no_charge(clients, monkeypatch, tmp_path):
    """The line fails, then an order for the next attempt: the update that is sent then has to be paid for."""
    client, sent = clients[0], []
    for agreement in (found.door.agreement for found in clients):
        agreement.min_cohort = 2
    agree(clients, order())

    def fails(path, line, **options):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("privacy.accounting.ledger.append_line", fails)
        with pytest.raises(OSError, match="disk full"):
            client.local_update(order(), sent.append)
    assert sent == []
    client.door.ledger._failed = False  # the worst: somebody goes on with it
    agree(clients, order(attempt=1, cohort=("m0", "m1")))
    client.local_update(order(attempt=1, cohort=("m0", "m1")), sent.append)
    assert len(sent) == 1
    (charge,) = read_ledger(client.door.ledger.path).charges
    spent, round_event = charge.entry.event, client.plan.spending.round(0, 0).event
    assert spent == round_event  # with what only counted as "sent before", this would be nothing
    assert pld_epsilon([ComposedDpEvent([spent])], 1e-3) > 0


# -- a draw that is not charged ------------------------------------------------------------------------------------


def test_lost_state_is_no_licence_to_draw_counts_again(tiny_markets, tmp_path):
    config = of_people(tiny(privacy={"epsilon": 8.0}))
    embed_markets(open_federation(config, tiny_markets, tmp_path), tiny_markets)
    drawn = (tmp_path / "state" / "private" / "m0" / "counts.npz").read_bytes()
    shutil.rmtree(tmp_path / "state" / "private")
    with pytest.raises(LostResultError, match="was paid for"):
        embed_markets(open_federation(config, tiny_markets, tmp_path), tiny_markets)
    assert not (tmp_path / "state" / "private" / "m0" / "counts.npz").exists()
    # as it was, a note without a digest: the store finds nothing, and draws
    again = NoiseSource.from_entropy().discrete_gaussian(8).tobytes()
    assert again != drawn[: len(again)]


# -- a run directory copied and resumed twice ------------------------------------------------------------------------


class StoppedError(Exception):
    pass


def test_a_copied_run_directory_is_charged_as_another_run(tiny_markets, tmp_path):
    config = of_people(
        tiny(
            privacy={"epsilon": 8.0, "protect": "release", "ctr": {"steps": 5}},
            ctr={"baselines": ["popularity"]},
            federation={"rounds": 1},
        )
    )

    def stop(event, fields):
        if event == "market":
            raise StoppedError

    account = users_account()
    first, second = tmp_path / "first", tmp_path / "second"
    federation = open_federation(config, tiny_markets, first, account=account_of(config, first))
    del federation  # stopped before anything was drawn
    shutil.copytree(first, second)

    run_pipeline(config, tiny_markets, first)
    assert len(spent_on_same_data(account_of(config, first), first, "m0")) == 1  # a resumed run is one run
    run_pipeline(config, tiny_markets, second)

    def counts(run):
        (path,) = (run / "transcript" / "counts").glob("*publication-m0.bin")
        return path.read_bytes()

    assert counts(first) != counts(second)  # the attack works: two draws of the same counts are out ...
    for run in (first, second):
        assert len(spent_on_same_data(account_of(config, run), run, "m0")) == 2  # ... and both of them are charged
    notes = [entry for entry in read_ledger(second / "ledger" / "m0.jsonl").entries if entry.stage == "earlier-runs"]
    assert [note.remark for note in notes] == ["0", "1"]
    assert account.is_file()


# -- a run directory copied while its process is alive, rolled back, or held twice -----------------------------------


def begin_counts(federation):
    return federation.doors["m0"].begin(federation.plans["m0"].counts())


def copied_alive(config, markets, tmp_path):
    """A process with a run in hand, the two directories after a copy, and the account of both."""
    first, second = tmp_path / "first", tmp_path / "second"
    account = account_of(config, first)
    living = open_federation(config, markets, first, account=account)
    shutil.copytree(first, second)
    return living, first, second, account


def test_a_copy_of_a_living_run_is_charged_as_another_run(tiny_markets, tmp_path):
    config = of_people(tiny(privacy={"epsilon": 8.0}))
    living, first, second, account = copied_alive(config, tiny_markets, tmp_path)
    drawn = begin_counts(living).key
    # the copy knows the account's latest nonce: with that alone it would go on as the same run, and draw again
    copied = open_federation(config, tiny_markets, second, account=account)
    assert begin_counts(copied).key != drawn
    for run in (first, second):
        assert len(spent_on_same_data(account_of(config, run), run, "m0")) == 2


def test_a_process_whose_run_was_resumed_elsewhere_charges_nothing_any_more(tiny_markets, tmp_path):
    config = of_people(tiny(privacy={"epsilon": 8.0}))
    living, first, second, account = copied_alive(config, tiny_markets, tmp_path)
    copied = open_federation(config, tiny_markets, second, account=account)
    begin_counts(copied)
    with pytest.raises(AccountError, match="was started elsewhere since"):
        begin_counts(living)
    assert living.doors["m0"].ledger.charges == []
    assert len(spent_on_same_data(account_of(config, first), first, "m0")) == 1


def test_a_ledger_that_was_lost_is_charged_again(tiny_markets, tmp_path):
    config, directory = of_people(tiny(privacy={"epsilon": 8.0})), tmp_path / "run"
    account = account_of(config, directory)
    drawn = begin_counts(open_federation(config, tiny_markets, directory, account=account)).key
    shutil.rmtree(directory / "ledger")
    shutil.rmtree(directory / "state" / "charges")
    again = open_federation(config, tiny_markets, directory, account=account)
    assert begin_counts(again).key != drawn
    assert len(spent_on_same_data(account_of(config, directory), directory, "m0")) == 2


def test_two_processes_in_one_directory_do_not_both_charge(tiny_markets, tmp_path):
    config = of_people(tiny(privacy={"epsilon": 8.0}))
    one, other = (open_federation(config, tiny_markets, tmp_path) for _ in range(2))
    begin_counts(one)
    with pytest.raises(ConcurrentWriteError, match="by somebody else"):
        begin_counts(other)
    assert len(read_ledger(tmp_path / "ledger" / "m0.jsonl").charges) == 1


def test_a_copy_masks_with_a_key_of_its_own(tiny_markets, tmp_path):
    config = of_people(tiny(privacy={"epsilon": 8.0}, aggregation={"kind": "masked-ckks"}))
    living, first, second, account = copied_alive(config, tiny_markets, tmp_path)
    begin_counts(living)
    resumed = open_federation(config, tiny_markets, first, account=account)
    copied = open_federation(config, tiny_markets, second, account=account)
    assert resumed.masks["m0"].public == living.masks["m0"].public
    assert copied.masks["m0"].public != living.masks["m0"].public


# -- the same key for other rows ---------------------------------------------------------------------------------------


def test_rows_in_another_order_are_other_data(tiny_markets, tmp_path):
    """Of two rows of one time the later in the file counts as the latest: order changes what is computed."""
    config, directory = of_people(tiny(privacy={"epsilon": 8.0})), tmp_path / "run"
    account = account_of(config, directory)
    open_federation(config, tiny_markets, directory, account=account)
    whole = tiny_markets["m0"].whole
    swap = np.arange(whole.market.n_rows)
    swap[[0, 1]] = [1, 0]
    market = replace(
        whole.market,
        user=whole.market.user[swap],
        item=whole.market.item[swap],
        rating=whole.market.rating[swap],
        time=whole.market.time[swap],
    )
    turned = replace(tiny_markets["m0"], whole=replace(whole, market=market))
    with pytest.raises(LedgerError, match="opened with another data"):
        open_federation(config, {**tiny_markets, "m0": turned}, directory, account=account)


# -- two failures at once ----------------------------------------------------------------------------------------------


def test_a_model_that_could_not_be_restored_is_restored_before_it_is_used(clients, monkeypatch):
    client, seen, sent = clients[0], Trainings(monkeypatch), []
    agree(clients, order())
    before = weights(client)

    def fails(*arguments, **options):
        raise OSError("too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("fedmm_secure.federation.door.pack", fails)
        patch.setattr(MarketClient, "_load", fails)
        with pytest.raises(OSError, match="too many"):
            client.local_update(order(), sent.append)
    assert not torch.equal(weights(client), before)
    client.local_update(order(), sent.append)
    own = client.door.own.transcript.find(kind="own-update", stage=STAGE, round=0, sender="m0")
    once = np.frombuffer(own, "<i8")
    assert seen.distinct == 1
    reference = MarketClient(client.plan, client.trainer, client.door, client._state_file.parent)
    np.testing.assert_array_equal(reference._pending["values"].numpy(), once)
    assert len(sent) == 1


def test_a_file_that_a_kill_left_half_written_is_gone_after_a_resume(tiny_markets, tmp_path):
    """Verification wants no file beside the transcript's index: a killed run has to verify too."""
    config = of_people(tiny(privacy={"epsilon": 8.0}))
    open_federation(config, tiny_markets, tmp_path)
    left = tmp_path / "transcript" / "counts" / ".0000-meter-m0.bin.123.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    open_federation(config, tiny_markets, tmp_path)
    assert not left.exists()


def test_a_kill_between_a_key_and_its_card_is_no_dead_end(tiny_markets, tmp_path):
    config = of_people(tiny(privacy={"epsilon": 8.0}))
    open_federation(config, tiny_markets, tmp_path / "whole")
    keys = tmp_path / "killed" / "state" / "keys" / "m1"
    shutil.copytree(tmp_path / "whole" / "state" / "keys" / "m1", keys)
    (keys / "card.json").unlink()
    assert len(open_federation(config, tiny_markets, tmp_path / "killed").doors) == 3
