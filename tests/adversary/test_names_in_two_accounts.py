"""One account knows a market by two names, another one by the second alone.

A market that is deployed keeps an account in its home, and the same market run by hand enters the user's. Each asked
the other by one name and the latest rows: what one account of both would have counted, neither did.
"""

from contextlib import nullcontext
from unittest import mock

import pytest
from dp_accounting.dp_event import GaussianDpEvent

from fedmm_secure.guarantee.stages import DECRYPTED_VIEWS
from privacy.accounting import account as accounts
from privacy.accounting.account import PrivacyAccount, RunState, heard_of
from privacy.accounting.spendings import Spending, of_same_data

FIRST, LATER, LATEST = [b"first"], [b"later"], [b"latest"]
EVENTS = dict.fromkeys(DECRYPTED_VIEWS, GaussianDpEvent(1.0))

# accounts, names and rows of three runs, and the name by which the fourth is entered in the user's account
LEADING = {
    "the user's account knows both names": (
        (("user", "by-hand", FIRST), ("user", "deployed", FIRST), ("home", "deployed", LATER)),
        "by-hand",
    ),
    "the home's account knows both names": (
        (("home", "by-hand", FIRST), ("home", "deployed", FIRST), ("user", "deployed", LATER)),
        "by-hand",
    ),
}


def entered(kept, others, rows, name, run):
    """Enter a run; what runs it finds before it."""
    account = PrivacyAccount(kept, [PrivacyAccount(other) for other in others if other.is_file()])
    elsewhere = accounts.heard_of(account.others, rows, name, account)
    found = account.start(
        account.fingerprint(rows), Spending(run, EVENTS, markets=3), RunState(f"nonce of {run}"), market=name,
        elsewhere=elsewhere,
    )  # fmt: skip
    return sorted(one.run for one in found.earlier)


def as_it_was(asked, market, prints):
    """Names led on within one account alone."""
    led_to = accounts.of_same_data
    return [(account, account._held(led_to(account._lines(), [market], prints[account.identity]))) for account in asked]


def old_of_same_data(bodies, markets, fingerprints):
    """Nor did those of runs that a line had heard of."""
    silent = {number: {**body, "elsewhere": {}} for number, body in bodies}
    found = of_same_data(silent.items(), markets, fingerprints)
    return [(number, body) for number, body in bodies if number in dict(found)]


@pytest.mark.parametrize("case", LEADING)
def test_a_second_name_leads_on_in_the_other_account(case, tmp_path):
    runs, name = LEADING[case]
    for worked in (True, False):
        folder = tmp_path / str(worked)
        paths = {"user": folder / "user" / "account", "home": folder / "home" / "account"}
        for number, (where, called, rows) in enumerate(runs):
            entered(paths[where], [], rows, called, f"run {number}")
        with (
            mock.patch.multiple(accounts, _of_all=as_it_was, of_same_data=old_of_same_data) if worked else nullcontext()
        ):
            before = entered(paths["user"], [paths["home"]], LATEST, name, "last")
            reader = PrivacyAccount(paths["user"], [PrivacyAccount(paths["home"])])
            composed = sorted(one.run for one in reader.spendings_of("last", name))
        expected = ["run 0", "run 1", "run 2"]
        # the attack works where names do not lead on
        assert (before == expected) != worked
        assert (composed == ["last", *expected]) != worked
        if not worked:
            # who has rows and a name finds them too, and the account says the same once the other is gone
            assert len(heard_of((reader, *reader.others), LATEST, name).known) == 2
            assert sorted(one.run for one in PrivacyAccount(paths["user"]).spendings_of("last", name)) == composed
