import json
import stat
from pathlib import Path

import pytest
from dp_accounting import dp_event
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.account import PrivacyAccount
from privacy.accounting.account_file import AccountError
from privacy.accounting.accountants import pld_epsilon
from privacy.accounting.places import users_account
from privacy.accounting.spendings import RunState, Spending

ROWS = [b"alice\x1fi1", b"bob\x1fi2"]


def spending(run, sigma=1.0):
    return Spending(run, {"market": dp_event.GaussianDpEvent(sigma)})


class Copy:
    """A run's state, as far as the account is concerned: the nonces that it knows."""

    def __init__(self, account, run, known=()):
        self.account, self.run, self.known = account, run, list(known)

    def start(self):
        nonce = f"{self.run} {id(self)} {len(self.known)} {len(lines(self.account))}"
        self.known.append(nonce)
        return self.account.start(self.account.fingerprint(ROWS), spending(self.run), RunState(nonce, self.known))

    def copied(self):
        return Copy(self.account, self.run, self.known)


def lines(account):
    return account.path.read_text().splitlines() if account.path.exists() else []


def charged(account):
    return [found.run for found in account.spendings(account.fingerprint(ROWS))]


@pytest.fixture
def account(tmp_path):
    return PrivacyAccount(tmp_path / "privacy.account")


def test_runs_on_the_same_data_add_up_and_others_do_not(account):
    other = account.fingerprint([*ROWS, b"carol\x1fi1"])
    assert Copy(account, "a").start().earlier == []
    assert account.start(other, spending("b"), RunState("n")).earlier == []
    earlier = Copy(account, "c").start().earlier
    assert [found.run for found in earlier] == ["a"]
    events = [found.events["market"] for found in [*earlier, spending("c")]]
    assert pld_epsilon(events, 1e-5) > pld_epsilon(events[:1], 1e-5)
    assert charged(account) == ["a", "c"]


def test_a_resumed_run_is_entered_once_and_sees_the_same_runs_before_it(account):
    Copy(account, "a").start()
    run = Copy(account, "b")
    first = run.start()
    Copy(account, "c").start()
    again = run.start()
    assert (again.earlier, again.again) == (first.earlier, False)
    assert charged(account) == ["a", "b", "c"]


def test_a_copied_run_that_goes_on_twice_is_charged_twice(account):
    """Each copy draws noise of its own from where they part: two runs, whatever their id."""
    run = Copy(account, "a")
    run.start()
    copy = run.copied()
    assert not run.start().again
    parted = copy.start()
    assert parted.again
    assert [found.run for found in parted.earlier] == ["a"]
    assert charged(account) == ["a", "a"]
    assert not copy.start().again  # and from there on it is a run like any other
    assert not run.start().again
    assert charged(account) == ["a", "a"]


def test_a_start_that_was_entered_and_not_answered_is_known_by_its_nonce(account):
    """Killed between the account's line and the state's: the nonce was kept before, as one that may be there."""
    run = Copy(account, "a")
    run.start()
    killed = run.copied()
    killed.start()
    resumed = Copy(account, "a", killed.known)
    assert not resumed.start().again
    assert charged(account) == ["a"]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_courses_are_never_fewer_than_copies_that_went_on(tmp_path_factory, data):
    """Whatever is copied and started in whatever order: two states that both went on from one are two courses."""
    account = PrivacyAccount(tmp_path_factory.mktemp("account") / "privacy.account")
    copies, course_of = [Copy(account, "a")], {0: 0}
    copies[0].start()
    courses, latest = 1, {0: 0}  # latest copy that went on, by course
    for _ in range(data.draw(st.integers(1, 8))):
        index = data.draw(st.integers(0, len(copies) - 1))
        if data.draw(st.booleans()):
            copies.append(copies[index].copied())
            course_of[len(copies) - 1] = course_of[index]
            continue
        before = len(charged(account))
        copies[index].start()
        grown = len(charged(account)) - before
        if latest[course_of[index]] == index:
            assert grown == 0  # the same state went on
        elif grown:
            courses += 1
            course_of[index] = courses - 1
        latest[course_of[index]] = index
    assert len(charged(account)) == courses


def test_the_fingerprint_depends_on_a_key_that_its_owner_alone_can_read(account, tmp_path):
    other = PrivacyAccount(tmp_path / "elsewhere" / "privacy.account")
    assert account.fingerprint(ROWS) != other.fingerprint(ROWS)
    assert account.fingerprint(ROWS) == account.fingerprint(reversed(ROWS))
    key = tmp_path / "privacy.account.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    Copy(account, "a").start()
    text = account.path.read_bytes()
    assert b"alice" not in text
    assert key.read_bytes() not in text


def test_an_interrupted_line_is_dropped_and_a_broken_one_is_named(account):
    Copy(account, "a").start()
    with account.path.open("ab") as file:
        file.write(b'{"half')
    assert charged(account) == ["a"]
    assert [found.run for found in Copy(account, "b").start().earlier] == ["a"]
    with account.path.open("ab") as file:
        file.write(b"nonsense\n")
    with pytest.raises(AccountError, match=r"privacy.account:4: not a line"):
        Copy(account, "c").start()


def test_a_line_that_follows_nothing_is_named(account):
    """One that was signed with the key, for what does not fit its key is refused before."""
    Copy(account, "a").start()
    key = account.path.with_name("privacy.account.key").read_bytes()
    body = json.loads(lines(account)[1])["body"]
    follows = {name: body[name] for name in ("fingerprint", "run", "market", "nonce", "charges")}
    account._file.append(key, account._file.bodies(key)[1], {**follows, "follows": "a nonce that nobody entered"})
    with pytest.raises(AccountError, match=r"privacy.account:3: not a line"):
        charged(account)


def test_an_account_that_cannot_be_written_says_what_to_set(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AccountError, match=r"set privacy\.account"):
        PrivacyAccount(tmp_path / "file" / "privacy.account").fingerprint(ROWS)


def test_an_account_of_an_earlier_version_is_refused_and_stays(account):
    """It names data in another way, and nothing vouches for its lines."""
    print_ = account.fingerprint(ROWS)
    event = {"kind": "gaussian", "noise_multiplier": 10.0}
    old = json.dumps({"fingerprint": print_, "run": "old", "nonce": "n", "events": {"market": event}}) + "\n"
    account.path.write_text(old)
    for use in (lambda: Copy(account, "new").start(), lambda: charged(account)):
        with pytest.raises(AccountError, match="not a line of a privacy account of this version"):
            use()
    assert account.path.read_text() == old


def test_a_run_that_another_account_let_in_is_not_let_in_as_new(account):
    print_ = account.fingerprint(ROWS)
    with pytest.raises(AccountError, match="was begun under another account"):
        account.start(print_, spending("a"), RunState("n1", ["n0"], begun=True))
    assert len(lines(account)) == 1


def test_where_accounts_are_by_default(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert users_account() == tmp_path / "fedmm" / "privacy.account"
    monkeypatch.setenv("FEDMM_ACCOUNT", str(tmp_path / "mine"))
    assert users_account() == tmp_path / "mine"
    monkeypatch.delenv("FEDMM_ACCOUNT")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_STATE_HOME", ignored)
        assert users_account() == Path.home() / ".local" / "state" / "fedmm" / "privacy.account"
