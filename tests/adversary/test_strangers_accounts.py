"""Privacy accounts of somebody else, who has their keys too: pipes, devices, nesting, and lines that add up to less.

A reader names an account with ``--account``; it was opened without a look at what it is.
"""

import hashlib
import hmac
import json
import math
import os
import threading
import tracemalloc

import pytest
from dp_accounting import dp_event

from privacy.accounting.account import PrivacyAccount
from privacy.accounting.account_file import _LINE, AccountError, digest_of
from privacy.accounting.accountants import pld_epsilon
from privacy.accounting.guarantees import composed_epsilon
from privacy.accounting.lines import canonical_json
from privacy.accounting.spendings import OfData, RunState, Spending, of_same_data, spent_to_data

EVENT = dp_event.GaussianDpEvent(2.0)
RUN = Spending("run", {"market": EVENT}, coordinates=100, extra_delta=1e-9, markets=3)


@pytest.fixture
def account(tmp_path):
    """An account with a run, as somebody hands it out."""
    found = PrivacyAccount(tmp_path / "privacy.account")
    found.start(found.fingerprint([b"row"]), RUN, RunState(nonce="n"), market="m0")
    return found


def asked(account):
    return account.spendings_of("run", "m0")


def ends(call, seconds=5):
    """Whether a call ends, and what it says; one that waits for a writer gets one."""
    said = []

    def work():
        try:
            said.append(call())
        except Exception as error:
            said.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return said[0] if said else None


def test_an_account_whose_key_is_a_pipe_ends_in_a_line(account):
    path = account.path.with_name("privacy.account.key")
    path.unlink()
    os.mkfifo(path)
    assert ends(path.read_bytes, 0.3) is None  # as it was read: whoever opens it waits for ever
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    said = ends(lambda: asked(account))
    assert isinstance(said, AccountError)
    assert "\n" not in str(said)


@pytest.mark.parametrize("what", ["privacy.account", "privacy.account.key"])
def test_an_account_or_a_key_without_end_is_not_read(account, what):
    path = account.path.with_name(what)
    if what.endswith("key"):
        path.unlink()
        path.symlink_to("/dev/zero")
    else:
        os.truncate(path, 3 * 2**30)  # sparse: it takes no room
    with path.open("rb") as file:
        assert len(file.read(2**20)) == 2**20  # more than any key, or line
    tracemalloc.start()
    try:
        with pytest.raises(AccountError, match=r"not a regular file|too large"):
            asked(account)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize("line", [b"[" * 100_000 + b"]" * 100_000, b'{"sequence": ' + b"1" * 5000 + b"}", b'"\xff"'])
def test_a_line_that_is_none_ends_in_a_line(account, line):
    with pytest.raises((RecursionError, ValueError)):  # as it was parsed, and added to
        json.loads(line)["sequence"] + 1
    with account.path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(AccountError, match=r"privacy\.account:3: not a line") as found:
        asked(account)
    assert "\n" not in str(found.value)


# -- lines that whoever has the key forges -----------------------------------------------------------------------------


def forge(account, **changes):
    """Another last line under the account's own key."""
    key = account.path.with_name("privacy.account.key").read_bytes()
    first, last = map(json.loads, account.path.read_text().splitlines())
    fields = {"sequence": 1, "previous": first["mac"], "body": {**last["body"], **changes}}
    mac = hmac.new(key, _LINE + canonical_json(fields), hashlib.sha256).hexdigest()
    # not through the product's own writer, which would refuse it
    account.path.write_bytes(canonical_json(first) + b"\n" + canonical_json({**fields, "mac": mac}) + b"\n")
    state = os.environ["XDG_STATE_HOME"]  # nor does the reader's machine know the account
    (account.path.parent / state / "fedmm" / "accounts" / f"{digest_of(key)[:32]}.json").unlink(missing_ok=True)


def gaussian(sigma):
    return {"kind": "gaussian", "noise_multiplier": sigma}


def test_numbers_that_no_run_spends_change_what_is_added_up():
    """The attack on what stood here, which added up whatever a line said."""
    honest = composed_epsilon([EVENT], [RUN], 1e-6, pld_epsilon)
    drawn = Spending("run", {}, coordinates=100, extra_delta=-1.0)
    assert composed_epsilon([EVENT], [drawn], 1e-6, pld_epsilon) < honest / 100
    with pytest.raises(ValueError, match=r"math domain|nonnegative"):
        composed_epsilon([EVENT], [Spending("run", {}, coordinates=-5)], 1e-6, pld_epsilon)
    assert math.isfinite(honest)


def test_the_forged_line_without_a_change_is_read(account):
    forge(account)
    assert asked(account) == [RUN]


@pytest.mark.parametrize(
    "changes",
    [
        {"extra_delta": -1.0},
        {"extra_delta": 2.0},
        {"extra_delta": True},
        {"coordinates": -5},
        {"coordinates": 1.5},
        {"coordinates": "100"},
        {"markets": 0},
        {"charges": -1},
        {"charges": "0"},
        {"seals": -1},
        {"parted": "no"},
        {"run": 7},
        {"run": "x" * 10_000},
        {"market": ["m0"]},
        {"nonce": None},
        {"note": "a field that nothing writes"},
        {"events": []},
        {"events": {"market": gaussian(-1.0)}},
        {"events": {"market": gaussian(1e-9)}},
        {"events": {"market": gaussian(1e300)}},
        {"events": {"market": {"kind": "self-composed", "count": -3, "event": gaussian(1.0)}}},
        {"events": {"market": {"kind": "self-composed", "count": 10**15, "event": gaussian(1.0)}}},
        {"events": {"market": {"kind": "poisson-sampled", "sampling_rate": -1.0, "event": gaussian(1.0)}}},
        {"events": {"market": {"kind": "other"}}},
        {"elsewhere": {"a": {"data": None, "runs": [{"run": "b", "market": "m0", "events": {}, "coordinates": -1}]}}},
        {"elsewhere": []},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_a_line_that_says_what_no_run_enters_is_refused(account, changes):
    forge(account, **changes)
    with pytest.raises(AccountError, match=r"privacy\.account:2: says what no run enters") as found:
        asked(account)
    assert "\n" not in str(found.value)


def test_an_account_takes_nothing_in_that_it_would_not_read_again(tmp_path):
    found = PrivacyAccount(tmp_path / "privacy.account")
    fingerprint, spends = found.fingerprint([b"row"]), Spending("run", {"market": dp_event.GaussianDpEvent(1e-6)})
    with pytest.raises(AccountError, match="cannot hold"):
        found.start(fingerprint, spends, RunState(nonce="n"))
    assert found.spendings(fingerprint) == []


def test_of_a_view_that_a_line_leaves_out_nothing_is_bounded(account):
    """The note of earlier runs left such a run out, and a compliance report ended in a traceback."""
    forge(account, events={})
    (found,) = asked(account)
    dropped = [found.events[view] for view in ("market",) if view in found.events]
    assert composed_epsilon(dropped, [found], 1e-6) < 0.1  # the attack works on what is left out
    assert math.isinf(composed_epsilon([found.observed("market")], [found], 1e-6))
    assert found.observed("market") == RUN.observed("release") == dp_event.NonPrivateDpEvent()
    assert RUN.observed("market") == EVENT


# -- lines that lead on without end ------------------------------------------------------------------------------------


class Line(dict):
    """What a line says, and how often lines were asked for their rows."""

    looks = 0

    def get(self, key, default=None):
        Line.looks += key == "fingerprint"
        return super().get(key, default)


class Courses(list):
    """Courses of runs, and how many were looked at one after the other."""

    looks = 0

    def __iter__(self):
        for one in super().__iter__():
            Courses.looks += 1
            yield one


def read_again(lines, market):
    """As it was: all lines once more, for each name that the last time found."""
    names, prints, before = {market}, set(), None
    while before != (before := (len(names), len(prints))):
        for _, body in lines:
            if body["market"] in names or body.get("fingerprint") in prints:
                names.add(body["market"])
                prints.add(body.get("fingerprint"))
    return prints


def test_names_that_lead_on_one_by_one_are_followed_once():
    """Each line leads to the one before it: a megabyte of them took five seconds, ten took as long as eight minutes."""
    n = 200
    chain = [Line(market=f"m{(one + 1) // 2}", fingerprint=f"{one // 2}") for one in range(n)]
    lines = list(enumerate(reversed(chain)))
    Line.looks = 0
    found = of_same_data([("a", lines)], [(None, "m0")]).lines[0]
    assert (len(found), Line.looks < 4 * n) == (n, True)
    Line.looks = 0
    found = read_again(lines, "m0")
    assert (len(found), Line.looks > n * n / 4) == (n // 2, True)  # the attack works on what reads them again


def test_a_charge_finds_its_course_among_many():
    n, found = 200, OfData(courses=Courses())
    said = {"fingerprint": "f", "market": "m", "charges": 0}
    for one in range(n):
        found.take({**said, "run": f"{one}", "nonce": f"{one}", **spent_to_data(RUN)})
    for one in range(n):
        assert next(course for course in found.courses if course.nonce == f"{one}").charges == 0
    assert Courses.looks > n * n / 4  # the attack works on what looks for it
    Courses.looks = 0
    for one in range(n):
        found.take({**said, "run": f"{one}", "at": f"{one}", "charges": 1})
    assert Courses.looks == 0
    assert [course.charges for course in found.courses] == [1] * n
