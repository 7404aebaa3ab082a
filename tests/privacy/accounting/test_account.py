import stat

import pytest
from dp_accounting import dp_event

from privacy.accounting.account import AccountError, PrivacyAccount, Spending
from privacy.accounting.accountants import pld_epsilon

ROWS = [b"alice\x1fi1", b"bob\x1fi2"]


def spending(run, sigma=1.0):
    return Spending(run, {"market": dp_event.GaussianDpEvent(sigma)})


@pytest.fixture
def account(tmp_path):
    return PrivacyAccount(tmp_path / "privacy.account")


def test_runs_on_the_same_data_add_up_and_others_do_not(account):
    same, other = account.fingerprint(ROWS), account.fingerprint([*ROWS, b"carol\x1fi1"])
    assert account.register(same, spending("a")) == []
    assert account.register(other, spending("b")) == []
    earlier = account.register(same, spending("c"))
    assert [found.run for found in earlier] == ["a"]
    events = [found.events["market"] for found in [*earlier, spending("c")]]
    assert pld_epsilon(events, 1e-5) > pld_epsilon(events[:1], 1e-5)


def test_a_resumed_run_is_entered_once_and_sees_the_same_runs_before_it(account):
    print_ = account.fingerprint(ROWS)
    account.register(print_, spending("a"))
    first = account.register(print_, spending("b"))
    account.register(print_, spending("c"))
    assert account.register(print_, spending("b")) == first
    assert len(account.path.read_text().splitlines()) == 3


def test_the_fingerprint_depends_on_a_key_that_its_owner_alone_can_read(account, tmp_path):
    other = PrivacyAccount(tmp_path / "elsewhere" / "privacy.account")
    assert account.fingerprint(ROWS) != other.fingerprint(ROWS)
    assert account.fingerprint(ROWS) == account.fingerprint(reversed(ROWS))
    key = tmp_path / "privacy.account.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    account.register(account.fingerprint(ROWS), spending("a"))
    text = account.path.read_bytes()
    assert b"alice" not in text
    assert key.read_bytes() not in text


def test_an_interrupted_line_is_dropped_and_a_broken_one_is_named(account):
    print_ = account.fingerprint(ROWS)
    account.register(print_, spending("a"))
    with account.path.open("ab") as file:
        file.write(b'{"half')
    assert [found.run for found in account.register(print_, spending("b"))] == ["a"]
    with account.path.open("ab") as file:
        file.write(b"nonsense\n")
    with pytest.raises(AccountError, match=r"privacy.account:3: not a line"):
        account.register(print_, spending("c"))


def test_an_account_that_cannot_be_written_says_what_to_set(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AccountError, match=r"set privacy\.account"):
        PrivacyAccount(tmp_path / "file" / "privacy.account").fingerprint(ROWS)
