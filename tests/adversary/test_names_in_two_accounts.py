"""One account knows a market by two names, another one by the second alone.

A market that is deployed keeps an account in its home, and the same market run by hand enters the user's. Each asked
the other by one name and the latest rows: what one account of both would have counted, neither did.
"""

import random
from contextlib import nullcontext
from dataclasses import replace
from unittest import mock

import pytest
from dp_accounting.dp_event import GaussianDpEvent

from fedmm_secure.guarantee.stages import DECRYPTED_VIEWS
from privacy.accounting import account as accounts
from privacy.accounting.account import PrivacyAccount, heard_of
from privacy.accounting.spendings import RunState, SameData, Spending, of_same_data

FIRST, LATER, LATEST = [b"first"], [b"later"], [b"latest"]
EVENTS = dict.fromkeys(DECRYPTED_VIEWS, GaussianDpEvent(1.0))

# accounts, names and rows of runs, and account and name by which the last is entered; the other one was always asked,
# or for the last alone
LEADING = {
    "the user's account knows both names": (
        (("user", "by-hand", FIRST), ("user", "deployed", FIRST), ("home", "deployed", LATER)),
        ("user", "by-hand"),
        False,
    ),
    "the home's account knows both names": (
        (("home", "by-hand", FIRST), ("home", "deployed", FIRST), ("user", "deployed", LATER)),
        ("user", "by-hand"),
        False,
    ),
    "the other account alone knows that two runs of one were on the same rows": (
        (("home", "by-hand", FIRST), ("user", "deployed", FIRST)),
        ("home", "deployed"),
        True,
    ),
}


def entered(kept, others, rows, name, run):
    """Enter a run; what runs it finds before it."""
    account = PrivacyAccount(kept, [PrivacyAccount(other) for other in others if other.is_file()])
    found = account.enter(rows, Spending(run, EVENTS, markets=3), RunState(f"nonce of {run}"), market=name)
    return sorted(one.run for one in found.earlier)


def composed(kept, others, run, name):
    """What a reader composes, by the account's own word on which data the run was."""
    reader = PrivacyAccount(kept, [PrivacyAccount(other) for other in others if other.is_file()])
    return sorted(one.run for one in reader.spendings_of(run, name))


def each_by_itself(asked, names):
    """Names led on within one account alone, and those of what it had heard of did not."""
    found = []
    for identity, lines in asked:
        silent = [(number, {**body, "elsewhere": {}}) for number, body in lines]
        led = dict(of_same_data([(identity, silent)], names).lines[0])
        found.append([(number, body) for number, body in lines if number in led])
    return SameData(found, set(names))


def told_of_runs_alone(*arguments):
    """The account that a run enters was asked by its own names, whatever others knew."""
    return replace(heard_of(*arguments), names=())


BROKEN = {"of_same_data": each_by_itself, "heard_of": told_of_runs_alone}


@pytest.mark.parametrize("case", LEADING)
def test_a_second_name_leads_on_in_the_other_account(case, tmp_path):
    runs, (last, name), always = LEADING[case]
    expected = [f"run {number}" for number, _ in enumerate(runs)]
    for worked in (True, False):
        folder = tmp_path / str(worked)
        paths = {"user": folder / "user" / "account", "home": folder / "home" / "account"}
        other = paths["home" if last == "user" else "user"]
        for number, (where, called, rows) in enumerate(runs):
            asked = [path for path in paths.values() if always and path != paths[where]]
            entered(paths[where], asked, rows, called, f"run {number}")
        with mock.patch.multiple(accounts, **BROKEN) if worked else nullcontext():
            before = entered(paths[last], [other], LATEST, name, "last")
            found = composed(paths[last], [] if always else [other], "last", name)
        # the attack works where names do not lead on
        assert (before == expected) != worked
        assert (found == ["last", *expected]) != worked
        if not worked:
            # who has rows and a name finds them too, and the account says the same once the other is gone
            reader = PrivacyAccount(paths[last], [PrivacyAccount(other)])
            assert len(heard_of((reader, *reader.others), LATEST, name).known) == 2
            assert composed(paths[last], [], "last", name) == found


def of_one_account(runs, name, rows):
    """What one account of all runs holds, by hand."""
    names, known = {name}, {rows}
    for _ in runs:
        for _, called, read in runs.values():
            if called in names or read in known:
                names.add(called)
                known.add(read)
    return sorted(run for run, (_, called, read) in runs.items() if called in names or read in known)


@pytest.mark.parametrize("mechanism", ["whole", *BROKEN])
def test_two_accounts_count_what_one_of_all_runs_would(mechanism, tmp_path):
    """Runs by chance, each entered where the other account is asked: none is missed, and none counted twice."""
    wrong = 0
    for trial in range(52, 63):
        draw, runs = random.Random(trial), {}
        paths = {where: tmp_path / f"{trial}-{where}" / "account" for where in ("user", "home")}
        for run in ("r0", "r1", "r2", "r3", "r4"):
            where, name, rows = draw.choice(list(paths)), draw.choice("abc"), draw.choice("123")
            others = [path for path in paths.values() if path != paths[where]]
            broken = {key: value for key, value in BROKEN.items() if key == mechanism}
            with mock.patch.multiple(accounts, **broken) if broken else nullcontext():
                before = entered(paths[where], others, [rows.encode()], name, run)
                expected = of_one_account(runs, name, rows)
                runs[run] = where, name, rows
                found = [composed(paths[where], asked, run, name) for asked in (others, [])]
            wrong += before != expected or any(one != sorted([run, *expected]) for one in found)
    assert (wrong > 0) == (mechanism != "whole")  # the attack works on what is broken


def test_lines_of_an_earlier_version_name_one_fingerprint_or_none():
    told = {"run": "r", "market": "theirs"}
    lines = [
        (2, {"fingerprint": "a", "market": "m", "elsewhere": {"other": {"data": "x", "runs": []}}}),
        (3, {"fingerprint": "b", "market": None, "elsewhere": {"other": {"data": ["x", "y"], "runs": [told]}}}),
        (4, {"fingerprint": "c", "market": "theirs", "elsewhere": {"other": {"data": None, "runs": []}}}),
        (5, {"fingerprint": "d"}),
    ]
    others = [(2, {"fingerprint": "y"}), (3, {"fingerprint": "z"})]
    found = of_same_data([("own", lines), ("other", others)], [(None, "m"), (None, "")])
    assert [[number for number, _ in one] for one in found.lines] == [[2, 3, 4], [2]]
    markets = {(None, "m"), (None, "theirs")}
    assert found.names == {*markets, ("own", "a"), ("own", "b"), ("own", "c"), ("other", "x"), ("other", "y")}
