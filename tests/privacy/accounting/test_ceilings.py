"""What is held to a ceiling, and which of several holds."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dp_accounting.dp_event import GaussianDpEvent, NonPrivateDpEvent

from privacy.accounting.account_lines import body_problem
from privacy.accounting.ceilings import CeilingError, _strictest, refuse_above
from privacy.accounting.filters import run_cost
from privacy.accounting.guarantees import several_runs_epsilon
from privacy.accounting.spendings import Ceiling, Spending, spending_from_data, spent_to_data
from privacy.mechanisms.events import dp_sgd_event

DELTA = 1e-5
EVENTS = {"market": GaussianDpEvent(2.0), "release": GaussianDpEvent(1.0)}
RUN = Spending("run", EVENTS, markets=3)
BOTH = several_runs_epsilon([RUN, RUN], "release", DELTA)


def fixes(epsilon, delta=DELTA, views=("market", "release"), **fields):
    return replace(RUN, ceiling=Ceiling(epsilon, delta, views), **fields)


def refused(spending, before):
    try:
        refuse_above(Path("account"), "m", spending, before)
    except CeilingError:
        return True
    return False


def test_it_is_on_the_run_and_all_before_it_and_on_the_view_that_learns_most():
    assert not refused(fixes(BOTH), [RUN])
    assert refused(fixes(BOTH * (1 - 1e-9)), [RUN])
    assert not refused(fixes(BOTH * 0.99, views=("market",)), [RUN])
    assert not refused(RUN, [RUN] * 50)  # nobody fixed one


@pytest.mark.parametrize("others", [[fixes(100.0)], [fixes(100.0, delta=1e-3)], [fixes(100.0, users="person")], []])
def test_the_strictest_holds_whoever_fixed_it(others):
    strict = fixes(BOTH * 0.99)
    assert refused(RUN, [*others, strict])
    assert refused(strict, others or [RUN])
    assert not refused(others[0] if others else RUN, others)


def test_what_is_implied_is_not_asked_again():
    """A market that grows has another δ in each run: of ceilings of one ε the smallest is the one that holds."""
    fixed = [fixes(BOTH, delta=DELTA / number) for number in range(1, 20)]
    looser = [fixes(BOTH + 1.0, views=("release", "market")), fixes(BOTH, views=("market",), delta=1e-3)]
    for runs in (fixed + looser, [*looser, *fixed[::-1]]):
        assert _strictest(runs) == [(fixed[-1].ceiling, None)]
    apart = [fixes(9.0), fixes(10.0, delta=DELTA / 2), fixes(11.0, views=("market", "x")), fixes(9.0, users="person")]
    assert len(_strictest(apart * 2)) == 4
    assert len(_strictest([fixes(9.0), fixes(9.0, views=("release", "market"))])) == 1  # of two that imply each other


@pytest.mark.parametrize("steps", [GaussianDpEvent(1.0), dp_sgd_event(1.0, 0.05, 50)])
def test_a_ceiling_at_a_smaller_delta_implies_one_at_a_larger(steps):
    """Of one run and of several; what costs are bounded by is no larger there either."""
    deltas, run = np.geomspace(1e-7, 1e-3, 5), Spending("run", {"market": steps}, coordinates=1000)
    for runs in (1, 2):
        epsilons = [several_runs_epsilon([run] * runs, "market", delta) for delta in deltas]
        assert (np.diff(epsilons) < 0).all()
    assert (np.diff([run_cost(steps, 1000, delta) for delta in deltas]) <= 0).all()


def test_a_smaller_delta_asks_for_more():
    assert not refused(RUN, [fixes(BOTH)])
    assert refused(RUN, [fixes(BOTH, delta=DELTA / 10)])


@pytest.mark.parametrize(
    "spending",
    [
        Spending("raw", dict.fromkeys(EVENTS, NonPrivateDpEvent())),
        Spending("federation", {"market": EVENTS["market"]}),  # of the other view it does not speak
        replace(RUN, users="person"),
        replace(RUN, extra_delta=DELTA),
    ],
)
def test_what_has_no_bound_is_above_every_ceiling(spending):
    assert refused(spending, [fixes(1e6, users="session")])
    assert refused(replace(RUN, users="session"), [fixes(1e6, users="session"), spending])


def test_a_message_says_ceiling_sum_and_number_in_one_line():
    with pytest.raises(CeilingError) as found:
        refuse_above(Path("kept/account"), "m1", RUN, [fixes(5.0), RUN])
    three = math.ceil(several_runs_epsilon([RUN] * 3, "release", DELTA) * 1000) / 1000
    assert str(found.value) == (
        f"kept/account: market m1: ε of 3 runs on the same data, this one included, would come to {three:.3f} at "
        "δ 1.0e-05, above the ceiling of 5 that one of them fixed (privacy.ceiling): it is refused, and has spent "
        "nothing"
    )


def test_a_line_of_an_account_carries_it():
    found = fixes(8.0)
    assert spending_from_data({"run": "run", **spent_to_data(found)}) == found
    assert "ceiling" not in spent_to_data(RUN)  # as earlier versions wrote it


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", 0.0),
        ("epsilon", 1e7),
        ("delta", 0.0),
        ("delta", 1.0),
        ("views", []),
        ("views", ["v"] * 11),
        ("x", 1),
    ],
)
def test_a_line_fixes_no_ceiling_that_is_none(field, value):
    line = {"fingerprint": "f", "run": "run", "market": "m", "nonce": "n", "charges": 0, "seals": 0, "parted": False}
    line |= spent_to_data(fixes(8.0))
    assert body_problem(line) is None
    assert field in str(body_problem({**line, "ceiling": {**line["ceiling"], field: value}}))
