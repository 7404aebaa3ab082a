import json
import stat

import pytest
from dp_accounting import dp_event
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting.account import AccountError, PrivacyAccount, Spending
from privacy.accounting.accountants import pld_epsilon

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
        return self.account.start(self.account.fingerprint(ROWS), spending(self.run), known=self.known, nonce=nonce)

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
    assert account.start(other, spending("b"), known=(), nonce="n").earlier == []
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
    with pytest.raises(AccountError, match=r"privacy.account:3: not a line"):
        Copy(account, "c").start()


def test_a_line_that_follows_nothing_is_named(account):
    Copy(account, "a").start()
    line = json.loads(lines(account)[0])
    del line["events"]
    with account.path.open("a") as file:
        file.write(json.dumps({**line, "follows": "a nonce that nobody entered"}) + "\n")
    with pytest.raises(AccountError, match=r"privacy.account:2: not a line"):
        charged(account)


def test_an_account_that_cannot_be_written_says_what_to_set(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AccountError, match=r"set privacy\.account"):
        PrivacyAccount(tmp_path / "file" / "privacy.account").fingerprint(ROWS)


def test_a_run_of_a_version_whose_noise_could_be_removed_counts_as_one_without(account):
    print_ = account.fingerprint(ROWS)
    event = {"kind": "gaussian", "noise_multiplier": 10.0}
    account.path.write_text(json.dumps({"fingerprint": print_, "run": "old", "events": {"market": event}}) + "\n")
    (earlier,) = Copy(account, "new").start().earlier
    assert earlier.run == "old"
    assert pld_epsilon([earlier.events["market"]], 1e-5) == float("inf")
    assert charged(account) == ["old", "new"]
