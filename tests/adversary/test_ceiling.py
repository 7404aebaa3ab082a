"""Runs that are chosen by what others showed, under a ceiling that the first of them fixed: none gets above it.

Each way round the ceiling works where the account does not hold a run to it.
"""

import shutil
import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from unittest import mock

import pytest
from dp_accounting.dp_event import GaussianDpEvent, NonPrivateDpEvent

from experiments.compliance.build import _all_runs, _ceiling
from fedmm_secure.config import config_from_data, configuration_hash
from fedmm_secure.data.prepare import prepare_markets
from fedmm_secure.federation import parties
from fedmm_secure.federation.account import account_of, enter_without_bound
from fedmm_secure.federation.account_entries import row_pairs
from fedmm_secure.federation.foresight import look_ahead
from fedmm_secure.federation.parties import open_federation
from fedmm_secure.guarantee.stages import CLAIMS
from fedmm_secure.pipeline import run_pipeline
from fedmm_secure.storage.run_directory import to_yaml
from privacy.accounting import account as accounts
from privacy.accounting.account import PrivacyAccount
from privacy.accounting.ceilings import CeilingError, refuse_above
from privacy.accounting.guarantees import several_runs_epsilon
from privacy.accounting.ledger import LedgerError
from privacy.accounting.lines import canonical_json
from privacy.accounting.places import users_account
from privacy.accounting.spendings import Ceiling, Course, RunState, Spending
from tests.command_line import fedmm
from tests.conftest import TINY
from tests.people import as_files

ROWS, MARKET, VIEW, DELTA, LIMIT = [b"alice item", b"bob item"], "m", "release", 1e-5, 5.8
CEILING = Ceiling(LIMIT, DELTA, (VIEW,))
NONCES = count()
UNHELD = {"refuse_above": lambda *_: None}


def spends(noise, ceiling=None):
    event = NonPrivateDpEvent() if noise is None else GaussianDpEvent(noise)
    return Spending(f"run {next(NONCES)}", {VIEW: event}, markets=3, ceiling=ceiling)


def enters(account, spending, *, market=MARKET, rows=ROWS, known=()):
    """Whether an account lets a run in; the nonce under which it did."""
    nonce = f"nonce {next(NONCES)}"
    with suppress(CeilingError):
        account.enter(rows, spending, RunState(nonce, known, begun=bool(known)), market=market)
        return nonce
    return None


def together(account):
    return several_runs_epsilon(account.spent_on(ROWS, MARKET), VIEW, DELTA)


@pytest.fixture
def account(tmp_path):
    """One in which the first run on the data fixed a ceiling, of which it takes two thirds."""
    found = PrivacyAccount(tmp_path / "account")
    assert enters(found, spends(1.1, CEILING))
    return found


def chosen(account):
    """Go on with whatever gets in, the most telling first."""
    let_in = 0
    for noise in (None, 0.3, 0.6, 1.0, 1.5, 3.0, 6.0, 6.0, 6.0):
        let_in += enters(account, spends(noise)) is not None
    return let_in


def test_no_choice_of_runs_gets_above_it(account):
    assert 0 < chosen(account) < 9
    assert 0.9 * LIMIT < together(account) <= LIMIT


def test_without_the_check_any_choice_does(account):
    with mock.patch.multiple(accounts, **UNHELD):
        assert chosen(account) == 9
    assert together(account) == float("inf")


WAYS = {
    "by itself": {},
    "a later configuration raises it": {"ceiling": replace(CEILING, epsilon=100.0)},
    "a later configuration raises it at another δ": {"ceiling": Ceiling(100.0, 1e-3, (VIEW,))},
    "for a view that nobody asks about": {"ceiling": replace(CEILING, epsilon=100.0, views=("market",))},
    "under another name of the market": {"market": "n"},
    "with other rows of the market": {"rows": [b"carol item"]},
}


@pytest.mark.parametrize("way", WAYS)
def test_what_came_later_does_not_raise_it(account, way):
    asked = dict(WAYS[way])
    run = spends(1.0, asked.pop("ceiling", None))
    assert enters(account, run, **asked) is None
    assert [one.ceiling for one in account.spent_on(ROWS, MARKET)] == [CEILING]  # nothing was entered
    with mock.patch.multiple(accounts, **UNHELD):
        assert enters(account, run, **asked)  # the attack works


def test_on_other_data_it_is_none(account):
    assert enters(account, spends(0.3), market="n", rows=[b"carol item"])


def test_an_account_that_has_heard_of_the_run_holds_later_ones_to_it(account, tmp_path):
    heard = PrivacyAccount(tmp_path / "other", [account])
    assert enters(heard, spends(1.0)) is None
    assert enters(heard, spends(3.0))
    account.path.unlink()
    alone = PrivacyAccount(heard.path)
    assert enters(alone, spends(1.0)) is None
    with mock.patch("privacy.accounting.spendings.Entered.to_data", lambda one: _unfixed(one)):
        deaf = PrivacyAccount(tmp_path / "third", [alone])
        assert enters(deaf, spends(3.0))
    assert enters(PrivacyAccount(deaf.path), spends(1.0))  # where what is heard leaves it out, one gets in


def _unfixed(entered):
    data = replace(entered.spending, ceiling=None)
    return {"run": data.run, "market": entered.market, **accounts.spent_to_data(data)}


def test_a_course_goes_on_and_an_old_copy_of_it_is_another_run(tmp_path):
    account, run = PrivacyAccount(tmp_path / "account"), spends(0.9, CEILING)
    first = enters(account, run)
    second = enters(account, run, known=[first])
    assert second  # it was let in before
    assert enters(account, run, known=[first]) is None  # a copy from before, with noise of its own
    assert enters(account, run, known=[second])


def exchanged(account):
    """A run of another market, whose rows become those with the ceiling before it charges anything."""
    run = spends(1.0)
    first = enters(account, run, market="n", rows=[b"carol item"])
    state = RunState(f"nonce {next(NONCES)}", [first], begun=True)
    foreseen = account.going_on(ROWS, run, state, market="n") is None
    with suppress(CeilingError):
        return foreseen, account.enter(ROWS, run, state, market="n").earlier
    return foreseen, None


def test_a_course_that_has_charged_nothing_goes_on_on_its_own_rows_alone(account):
    assert exchanged(account) == (True, None)
    assert together(account) <= LIMIT


def test_on_exchanged_rows_it_got_above_and_counted_nobody_before_it(account):
    with mock.patch.object(Course, "stays", return_value=True):
        assert exchanged(account) == (False, [])
    assert together(account) > LIMIT


@pytest.mark.parametrize("foreseen", [False, True])
def test_of_two_at_once_one_gets_in(account, foreseen):
    """Each would by itself; where both ask before either is entered, both do."""
    meet, found = threading.Barrier(2, timeout=0.2), []

    def slowly(*asked):
        refuse_above(*asked)
        with suppress(threading.BrokenBarrierError):
            meet.wait()

    def start():
        run, own = spends(1.5), PrivacyAccount(account.path)
        if foreseen:
            slowly(own.path, MARKET, run, own.spent_on(ROWS, MARKET))
        found.append(enters(own, run))

    held = UNHELD if foreseen else {"refuse_above": slowly}
    with mock.patch.multiple(accounts, **held):
        threads = [threading.Thread(target=start) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(one is not None for one in found) == (2 if foreseen else 1)
    assert (together(account) <= LIMIT) != foreseen


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """Configurations on the same files, and their markets."""
    folder = tmp_path_factory.mktemp("markets")
    sections = as_files(folder, **TINY)

    def configuration(**privacy):
        privacy = {**sections["privacy"], "protect": "release", **privacy}
        return config_from_data({**sections, "privacy": privacy}, source="test")

    return configuration, prepare_markets(configuration().data)


def test_a_run_of_several_markets_is_refused_before_any_of_them_enters(configured, tmp_path):
    configuration, markets = configured
    fixed = configuration(epsilon=8, ceiling=9)
    only = {"m2": markets["m2"]}
    account = account_of(fixed, tmp_path / "first")
    open_federation(fixed, only, tmp_path / "first", account=account)
    before, said = users_account().read_bytes(), []

    def refused(run):
        with pytest.raises(CeilingError, match="market m2: ε of 2 runs on the same data") as found:
            run()
        assert "\n" not in str(found.value)
        assert users_account().read_bytes() == before

    later = configuration(epsilon=8)
    refused(lambda: run_pipeline(later, markets, tmp_path / "later", lambda event, fields: said.append(event)))
    assert "outlook" not in said  # what is refused is not warned of too
    refused(lambda: enter_without_bound(later, tmp_path / "joined", *markets.values()))
    refused(lambda: open_federation(later, only, tmp_path / "by lock", account=account))
    raised = configuration(epsilon=8, ceiling=100)
    refused(lambda: run_pipeline(raised, markets, tmp_path / "raised"))


def test_all_markets_agree_on_it_and_runs_without_one_keep_their_hash(configured):
    """A market whose configuration leaves it out is in another run; configurations of earlier versions have none."""
    configuration, _ = configured
    with mock.patch("fedmm_secure.config.loading.canonical_json", wraps=canonical_json) as hashed:
        found = {configuration_hash(configuration(epsilon=8, ceiling=limit)) for limit in (None, 9, 10)}
    assert len(found) == 3
    assert ["ceiling" in call.args[0]["privacy"] for call in hashed.call_args_list] == [False, True, True]


@pytest.mark.parametrize(("ceiling", "warned"), [(None, True), (12, False)])
def test_who_fixed_a_ceiling_is_warned_of_what_is_above_it(configured, tmp_path, capsys, ceiling, warned):
    configuration, _ = configured

    def stopped(directory, settings, outlook, *_, **__):
        outlook("outlook", {"markets": {"m0": {"earlier": 1, "without_bound": 0, "epsilon": 11.2}}})
        raise CeilingError("stopped here")

    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(configuration(epsilon=8, ceiling=ceiling)))
    with mock.patch("experiments.runs.execution.execute", stopped):
        status, _, err = fedmm(capsys, "run", path, "--out", tmp_path / "run", "--quiet")
    assert status == 2
    assert ("warning: together with 1 earlier run" in err) == warned


def test_the_command_says_so_once(configured, tmp_path, capsys):
    configuration, markets = configured
    fixed = configuration(epsilon=8, ceiling=9)
    account = account_of(fixed, tmp_path / "first")
    open_federation(fixed, {"m0": markets["m0"]}, tmp_path / "first", account=account)
    path = tmp_path / "later.yaml"
    path.write_text(to_yaml(configuration(epsilon=8)))
    status, out, err = fedmm(capsys, "run", path, "--out", tmp_path / "later", "--quiet")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "above the ceiling of 9 that one of them fixed (privacy.ceiling)" in err
    assert "warning" not in err


@pytest.mark.parametrize(
    ("fixed", "stated"),
    [
        ([20.0, None], 20.0),
        ([20.0, 19.0], 20.0),
        ([None, 20.0], None),  # too late
        ([None, None], None),
    ],
)
def test_a_report_knows_a_ceiling_of_the_first_run_alone(configured, tmp_path, fixed, stated):
    configuration, markets = configured
    only = {"m0": markets["m0"]}
    for number, limit in enumerate(fixed):
        config, directory = configuration(epsilon=8, ceiling=limit), tmp_path / str(number)
        account = account_of(config, directory)
        federation = open_federation(config, only, directory, account=account)
    views = CLAIMS["release"]
    before = {"earlier_runs": 1, **{view: {"epsilon": 12.0} for view in views}}
    delta = federation.plans["m0"].delta

    def found(delta):
        told = {"with_earlier_runs": before, "market": {"delta": delta}, "server": {"epsilon": 0.0}}
        return _all_runs(account, config, directory, "m0", told, views)

    assert found(delta).runs == 2
    assert found(delta).as_planned
    assert found(delta).ceiling == stated
    assert found(delta / 2).ceiling is None  # it was fixed at a larger one


def test_a_run_in_another_account_may_have_been_the_first(account, tmp_path):
    elsewhere = PrivacyAccount(tmp_path / "elsewhere")
    assert enters(elsewhere, spends(3.0))
    run = spends(3.0)
    assert enters(PrivacyAccount(account.path, [elsewhere]), run)
    for others in ([elsewhere], []):  # read beside it, or heard of when the run was entered
        firsts = PrivacyAccount(account.path, others).firsts_of(run.run, MARKET)
        assert [one.ceiling for one in firsts] == [CEILING, None]
    assert [one.ceiling for one in account.spendings_of(run.run, MARKET)].count(CEILING) == 1


def held_to_one(account, run, market=MARKET):
    """What a report makes of ceilings on the data of a run; and as it was: the largest, if each first run fixed one."""
    firsts = account.firsts_of(run.run, market)
    return _ceiling(firsts, [VIEW], DELTA), max(one.ceiling.epsilon for one in firsts)


def test_ceilings_of_two_accounts_are_none_on_both(account, tmp_path):
    """Each holds its own runs to it, and knows nothing of the other's."""
    elsewhere, run = PrivacyAccount(tmp_path / "elsewhere"), spends(1.1, CEILING)
    assert enters(elsewhere, run)
    assert held_to_one(elsewhere, run) == (LIMIT, LIMIT)
    both = PrivacyAccount(elsewhere.path, [account])
    assert several_runs_epsilon(both.spendings_of(run.run, MARKET), VIEW, DELTA) > LIMIT
    assert held_to_one(both, run) == (None, LIMIT)  # as it was, a report said that the account enforces it


def test_ceilings_on_data_that_were_found_to_be_the_same_are_none_on_both(account):
    """Two markets, each with a ceiling, until a run of the one has the rows of the other."""
    assert enters(account, spends(6.0, CEILING), market="n", rows=[b"carol item"])
    assert held_to_one(account, run := spends_on(account)) == (LIMIT, LIMIT)
    assert enters(account, spends(6.0), rows=[b"carol item"])
    assert held_to_one(account, run) == (None, LIMIT)  # nothing would have kept those of the two from more


def spends_on(account):
    run = spends(6.0)
    assert enters(account, run)
    return run


@pytest.mark.parametrize("state", ["copied", "another plan"])
def test_what_begins_another_course_is_foreseen(configured, tmp_path, state):
    """A copy that another process was faster than, or a run that was entered with another plan: the warning of it said
    what the first course comes to, and one market was entered before another one was refused."""
    configuration, markets = configured
    config, run, account = configuration(epsilon=8), tmp_path / "run", account_of(configuration(), tmp_path / "run")
    begun = configuration(epsilon=4) if state == "another plan" else config
    with mock.patch.object(parties.Ledger, "open", side_effect=KeyboardInterrupt), suppress(KeyboardInterrupt):
        open_federation(begun, markets, run, account=account)
    if state == "copied":
        shutil.copytree(run, tmp_path / "copy")
        open_federation(config, markets, run, account=account)
        run = tmp_path / "copy"
    found = look_ahead(config, markets, run, account)
    with mock.patch.object(PrivacyAccount, "going_on", side_effect=partial(first_course, account)):
        as_it_was = look_ahead(config, markets, run, account)
    federation = open_federation(config, markets, run, account=account)
    for name, prepared in markets.items():
        known = account.spent_on(row_pairs(prepared.whole.market), name)
        epsilon = several_runs_epsilon(known, VIEW, federation.plans[name].delta)
        assert (found[name].earlier, found[name].epsilon) == (1, pytest.approx(epsilon))
        assert as_it_was[name].epsilon < 0.8 * epsilon


def first_course(account, *_, market):
    """As it was: a run that the account has goes on in it."""
    return account.spent_on([], market)[0]


def test_a_copy_of_several_markets_is_refused_before_any_of_them_enters(configured, tmp_path):
    configuration, markets = configured
    config, only, run = configuration(epsilon=8, ceiling=9), {"m0": markets["m0"]}, tmp_path / "run"
    account = account_of(config, run)
    open_federation(config, only, run, account=account)
    shutil.copytree(run, tmp_path / "copy")
    open_federation(config, only, run, account=account)
    before = users_account().read_bytes()
    with pytest.raises(CeilingError, match="market m0: ε of 2 runs on the same data"):
        look_ahead(config, only, tmp_path / "copy", account)
    assert users_account().read_bytes() == before
    assert look_ahead(config, only, run, account)["m0"].earlier == 0  # the run itself goes on


@pytest.mark.parametrize("edited", [{"epsilon": None, "protect": "federation"}, {"epsilon": 1}, {"ceiling": 9}])
def test_another_configuration_than_the_ledger_s_enters_nothing(configured, tmp_path, edited):
    """Nothing is charged, so that the account would enter it as another run: one that never is, or a traceback."""
    configuration, markets = configured
    config, run = configuration(epsilon=8), tmp_path / "run"
    account = account_of(config, run)
    open_federation(config, markets, run, account=account)
    before = users_account().read_bytes()
    for again in (open_federation, look_ahead):
        with pytest.raises(LedgerError, match="opened with another configuration"):
            again(configuration(**{"epsilon": 8, **edited}), markets, run, account=account)
    assert users_account().read_bytes() == before
