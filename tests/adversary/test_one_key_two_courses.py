"""A run that dies between a charge and its seal, and is copied: both copies drew that release from one key.

The account charged the copy as another run, with noise of its own. It had none: the release in hand was computed twice
under one key. On one kind of processor the results are the same to the last bit. On two they are not: clipped gradients
of single users are cut to integers after float arithmetic that rounds otherwise there, and the difference of the two
noised sums, which is free of noise, is the sum of what single users' roundings are.
"""

import hashlib
import shutil
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial

import pytest
import torch

from experiments.verification import verify_run
from experiments.verification.spending import given_up_charges
from fedmm_secure.collaborative.build import fit_embedding
from fedmm_secure.federation.account import account_of, spent_on_same_data
from fedmm_secure.federation.door import Door
from fedmm_secure.federation.foresight import look_ahead
from fedmm_secure.federation.in_process import connect
from fedmm_secure.federation.orders import Order
from fedmm_secure.federation.parties import make_clients, open_federation
from fedmm_secure.federation.transactions import Result
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage.run_directory import create, read_metrics
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.account_file import AccountError
from privacy.accounting.ledger import Ledger, read_ledger
from tests.conftest import tiny
from tests.parties import agree
from tests.people import of_people
from tests.released import PRIVATE, RELEASE


def begin_counts(federation):
    return federation.doors["m0"].begin(federation.plans["m0"].counts())


def test_what_is_charged_as_another_run_draws_from_another_key(tiny_markets, tmp_path):
    config = of_people(tiny(privacy={"epsilon": 8.0}))
    first, second = tmp_path / "first", tmp_path / "second"
    account = account_of(config, first)
    drawn = begin_counts(open_federation(config, tiny_markets, first, account=account)).key
    shutil.copytree(first, second)  # killed here: charged, not sealed
    resumed = open_federation(config, tiny_markets, first, account=account)
    assert begin_counts(resumed).key == drawn  # the same computation once more
    copied = open_federation(config, tiny_markets, second, account=account)
    assert copied.course == 1
    assert len(spent_on_same_data(account, second, "m0")) == 2  # two runs with two noises, says the account
    assert begin_counts(copied).key != drawn


def let_out_twice(markets, tmp_path):
    """The living one is past its charge when the copy goes on as the same run; here rounding is a byte.

    Key and result of each that was sealed, and how many runs the account counts.
    """
    config = of_people(tiny(privacy={"epsilon": 8.0}))
    first, second = tmp_path / "first", tmp_path / "second"
    account = account_of(config, first)
    living = open_federation(config, markets, first, account=account)
    release, found = living.plans["m0"].counts(), []

    def compute(rounding, meanwhile=lambda: None):
        def drawn(source):
            meanwhile()
            return Result(source._key + source.derive("noise").words(1).tobytes() + rounding)

        return drawn

    def let_out(federation, result, directory):
        data = federation.doors["m0"].perform(release, result, directory / "counts")
        found.append((data[:32], data[32:]))

    def goes_on_elsewhere():
        shutil.copytree(first, second)
        copied = open_federation(config, markets, second, account=account)
        assert copied.course == 0
        let_out(copied, compute(b"1"), second)

    with suppress(AccountError):
        let_out(living, compute(b"0", goes_on_elsewhere), first)
    return found, len(spent_on_same_data(account, first, "m0"))


def test_two_processes_do_not_both_publish_what_was_charged_once(tiny_markets, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:  # the attack works where a seal asks nobody
        patch.setattr(PrivacyAccount, "sealing", lambda *_: nullcontext())
        ((one, result), (other, another)), runs = let_out_twice(tiny_markets, tmp_path / "as it was")
        assert (one, runs) == (other, 1)
        assert result != another
    found, runs = let_out_twice(tiny_markets, tmp_path / "now")
    assert (len(found), runs) == (1, 2)  # that of before, on the same rows, is the other run


# -- the same kind: whoever has drawn from a key, there is one result of it ------------------------------------------


class KilledError(Exception):
    """Where a process would be killed."""


@pytest.fixture
def killed(tiny_markets, tmp_path):
    """A run that was killed once its counts were charged: how it goes on in a directory, that, and the key."""
    config, directory = of_people(tiny(privacy={"epsilon": 8.0})), tmp_path / "run"
    account = account_of(config, directory)
    key = begin_counts(open_federation(config, tiny_markets, directory, account=account)).key
    return partial(open_federation, config, tiny_markets, account=account), directory, key


def runs_of(federation):
    return len(spent_on_same_data(federation.account, federation.directory, "m0"))


def on_another_machine(patch):
    patch.setattr("fedmm_secure.federation.account.computing_kind", lambda device: "other vector units")


def test_a_charge_in_hand_is_not_redone_on_another_kind_of_machine(killed, monkeypatch):
    go_on, directory, key = killed
    on_another_machine(monkeypatch)
    moved = go_on(directory)
    drawn = begin_counts(moved).key
    assert drawn != key
    assert (moved.course, runs_of(moved)) == (0, 2)  # it sent nothing that it does not know of: the same masks
    ledger = read_ledger(directory / "ledger" / "m0.jsonl")
    assert [charge.entry.stage for charge in ledger.charges] == ["counts", "counts"]  # both are stated as spent
    assert [entry.remark for entry in ledger.entries if entry.stage == "earlier-runs"] == ["0", "1"]
    assert len(list((directory / "state" / "charges" / "m0").glob("*.key"))) == 1  # that of the first is gone
    again = go_on(directory)
    assert begin_counts(again).key == drawn
    assert runs_of(again) == 2


def test_a_run_with_nothing_in_hand_goes_on_anywhere(killed, monkeypatch):
    go_on, directory, _ = killed
    run = go_on(directory)
    run.doors["m0"].perform(run.plans["m0"].counts(), lambda source: Result(b"counts"), directory / "counts")
    on_another_machine(monkeypatch)
    assert runs_of(go_on(directory)) == 1


def test_what_was_given_up_once_is_in_hand_no_more(killed, tiny_markets, monkeypatch):
    go_on, directory, _ = killed
    config, markets, account = go_on.args[0], tiny_markets, go_on.keywords["account"]
    assert look_ahead(config, markets, directory, account)["m0"].earlier == 0
    with monkeypatch.context() as patch:
        on_another_machine(patch)
        assert look_ahead(config, markets, directory, account)["m0"].earlier == 1  # it is said before it is spent
        run = go_on(directory)
        run.doors["m0"].perform(run.plans["m0"].counts(), lambda source: Result(b"counts"), directory / "counts")
    assert runs_of(go_on(directory)) == 2  # back on the first machine: the first charge is no more than spent


def test_what_an_abandoned_key_has_left_is_not_what_the_next_one_is_sealed_with(killed, monkeypatch):
    """Killed between the result and its seal: the copy has a result of the first key."""
    go_on, directory, key = killed
    (directory / "counts").write_bytes(key)
    (directory / "counts.meter").write_bytes(bytes(8))
    on_another_machine(monkeypatch)
    run, keep = go_on(directory), directory / "counts"
    found = run.doors["m0"].perform(run.plans["m0"].counts(), lambda source: Result(source._key), keep)
    assert key != found == begin_key(run, keep)
    assert not keep.with_name("counts.meter").exists()


def begin_key(run, keep):
    (_, charge) = run.doors["m0"].ledger.charges
    assert charge.key == hashlib.sha256(keep.read_bytes()).hexdigest()
    return keep.read_bytes()


def test_a_kill_while_another_course_begins_leaves_it_to_begin(killed, monkeypatch):
    """The account has entered it, and the state does not say so: it would go on with the old keys and masks."""
    go_on, directory, key = killed
    copy = shutil.copytree(directory, directory.with_name("copy"))
    go_on(directory)
    with monkeypatch.context() as patch:
        patch.setattr(PrivacyAccount, "start", entered_and_killed)
        with pytest.raises(KilledError):
            go_on(copy)
    found = go_on(copy)
    assert (found.course, runs_of(found)) == (1, 2)
    assert begin_counts(found).key != key


def entered_and_killed(account, *arguments, honest=PrivacyAccount.start, **options):
    honest(account, *arguments, **options)
    raise KilledError


def sealed_in_the_account(killed, monkeypatch):
    """A run that was killed with the seal of its counts in the account, and not yet in its ledger."""
    go_on, directory, _ = killed

    def killed_at_the_seal(*arguments):
        raise KilledError

    run, keep = go_on(directory), directory / "counts"
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "seal", killed_at_the_seal)
        with pytest.raises(KilledError):
            run.doors["m0"].perform(run.plans["m0"].counts(), lambda source: Result(b"rounded up"), keep)
    return go_on, directory


def test_a_kill_between_the_seals_of_account_and_ledger_costs_nothing(killed, monkeypatch):
    go_on, directory = sealed_in_the_account(killed, monkeypatch)
    run = go_on(directory)
    assert run.doors["m0"].perform(run.plans["m0"].counts(), refuse, directory / "counts") == b"rounded up"
    assert runs_of(run) == 1


def refuse(source):
    raise AssertionError("computed once more")


def test_what_the_account_has_sealed_has_no_other_result(killed, monkeypatch):
    """A copy that lacks the result computes it where one more bit is rounded down."""
    go_on, directory = sealed_in_the_account(killed, monkeypatch)
    copy = shutil.copytree(directory, directory.with_name("copy"))
    (copy / "counts").unlink()
    run = go_on(copy)
    with pytest.raises(AccountError, match="has sealed another result"):
        run.doors["m0"].perform(run.plans["m0"].counts(), lambda source: Result(b"rounded down"), copy / "counts")
    assert run.doors["m0"].ledger.seals == {}


def test_a_copy_from_before_the_seal_publishes_no_other_result(killed):
    go_on, directory, key = killed
    copy = shutil.copytree(directory, directory.with_name("copy"))
    run = go_on(directory)
    run.doors["m0"].perform(run.plans["m0"].counts(), lambda source: Result(b"published"), directory / "counts")
    copied = go_on(copy)
    assert begin_counts(copied).key != key
    assert runs_of(copied) == 2


def test_an_update_in_hand_is_of_the_course_that_drew_it(tiny_markets, tmp_path, monkeypatch):
    """Killed when it was about to send: codebooks are moved by noise of a key that is given up elsewhere."""
    config = of_people(tiny(embedding={"kind": "svd"}, privacy={"epsilon": 8.0}, aggregation={"kind": "masked-ckks"}))
    directory = tmp_path / "run"
    account = account_of(config, directory)
    order, embeddings = Order("quantizer/0", 0, 0, ("m0", "m1", "m2")), {}
    for name, prepared in tiny_markets.items():
        embeddings[name] = fit_embedding(prepared, config.embedding)

    def goes_on():
        federation = open_federation(config, tiny_markets, directory, account=account)
        found = make_clients(federation, 0, embeddings, {})
        connect(federation)
        agree(found, order)
        return found[0]

    def killed_at_the_door(*arguments):
        raise KilledError

    killed, sent = goes_on(), []
    begun = weights(killed)
    with monkeypatch.context() as patch:
        patch.setattr(Door, "send", killed_at_the_door)
        with pytest.raises(KilledError):
            killed.local_update(order, sent.append)
    drawn, values = killed.door.ledger.charges[0].key, killed._pending["values"]
    assert torch.equal(goes_on()._pending["values"], values)  # here it has them, and sends them
    on_another_machine(monkeypatch)
    moved = goes_on()
    assert moved._pending is None
    assert torch.equal(weights(moved), begun)  # where the round began, without what the other key moved
    moved.local_update(order, sent.append)
    assert [charge.key == drawn for charge in moved.door.ledger.charges] == [True, False]
    assert not torch.equal(moved._pending["values"], values)
    assert len(sent) == 1


def weights(client):
    return torch.cat([parameter.detach().ravel() for parameter in client.trainer.model.parameters()])


def test_a_run_that_moved_verifies_and_states_both_charges(tiny_markets, tmp_path, monkeypatch):
    """Killed with the released models in hand, and finished on a machine with other vector units."""
    private = {**RELEASE, "ctr": {"steps": 2}}
    config = tiny(privacy=private, embedding=PRIVATE, ctr={"baselines": []}, federation={"rounds": 1})
    config, directory = of_people(config), tmp_path / "run"
    create(directory, config)
    with monkeypatch.context() as patch:
        patch.setattr("fedmm_secure.pipeline.private_training", charged_and_killed)
        with pytest.raises(KilledError):
            run_pipeline(config, tiny_markets, directory)
    on_another_machine(monkeypatch)
    run_pipeline(config, tiny_markets, directory)
    assert verify_run(directory) == []
    ledger = read_ledger(directory / "ledger" / "m2.jsonl")
    (lost, made), kinds = [charge for charge in ledger.charges if charge.entry.stage == "ctr/0"], list(ledger.kinds)
    assert lost.sequence not in ledger.seals
    stated = read_metrics(directory)["privacy"]["markets"]["m2"]["release"]["epsilon"]
    assert stated > config.privacy.epsilon  # both charges are of the run
    assert given_up_charges(ledger) == {lost.sequence}
    # without the note of the course that made it again, the first is a charge that was never sealed
    (_, second) = [at for at, entry in enumerate(ledger.entries) if entry.stage == "earlier-runs"]
    entries = [entry for at, entry in enumerate(ledger.entries) if at != second]
    kinds.pop(made.sequence - 1)
    assert given_up_charges(replace(ledger, entries=tuple(entries), kinds=tuple(kinds))) == frozenset()


def charged_and_killed(federation, market, begun):
    raise KilledError
