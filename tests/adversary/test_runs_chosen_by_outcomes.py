"""Two runs, each within its budget: which plan the second one has follows from what the first one showed.

Each of the two pairs has an ε of 8 by its losses. Whoever takes the plan with heavy tails where the first run told much
about a user, and the other one where it told little, learns more than either pair tells.
"""

import math
from functools import cache

import numpy as np
import pytest
from dp_accounting.dp_event import ComposedDpEvent, GaussianDpEvent, NoOpDpEvent
from scipy.signal import fftconvolve

from privacy.accounting.accountants import once_each, pld_epsilon, solve_noise_multiplier
from privacy.accounting.events import gaussian_steps
from privacy.accounting.filters import noted_event, run_cost
from privacy.accounting.guarantees import (
    EARLIER_RUNS,
    EARLIER_RUNS_MECHANISM,
    LISTED_EARLIER_RUNS,
    coarsely,
    cost_of,
    guarantee_with_earlier_runs,
    several_runs_epsilon,
)
from privacy.accounting.ledger import Entry
from privacy.accounting.losses import composed_losses
from privacy.accounting.spendings import Spending
from privacy.mechanisms.events import dp_sgd_event

DELTA, LIMIT, VIEW = 2e-4, 8.0, "release"
STEP, LEAST = 5e-3, 0.1  # grid of the losses here, which makes what tells less than that tell more
REACH = 8000  # of its points in each direction


def within_the_limit(event_of, *before):
    """The event of the least noise that comes to the limit by its losses, with those before it."""
    noise = solve_noise_multiplier(
        lambda noise: ComposedDpEvent([*before, event_of(noise)]), epsilon=LIMIT, delta=DELTA
    )
    return event_of(noise)


FIRST = GaussianDpEvent(solve_noise_multiplier(GaussianDpEvent, epsilon=6.5, delta=DELTA))
EVEN = within_the_limit(GaussianDpEvent, FIRST)
RARE = within_the_limit(lambda noise: dp_sgd_event(noise, 0.005, 1), FIRST)
PLANS = (FIRST, EVEN, RARE)


def by_losses(events):
    return pld_epsilon(events, DELTA)


def by_the_filter(events):
    return several_runs_epsilon([Spending("run", {VIEW: event}) for event in events], VIEW, DELTA)


def losses_of(plan, removed):
    """Probability of each loss ``(2 REACH + 1,)`` where the user took part, and of a larger one."""
    found = composed_losses(once_each(gaussian_steps(plan)), STEP)
    pmf = (found._pmf_remove if removed else found._pmf_add).to_dense_pmf()
    at = np.arange(pmf.size) + pmf._lower_loss + REACH
    law = np.bincount(np.clip(at, 0, None), pmf._probs, 2 * REACH + 1)
    return law[: 2 * REACH + 1], pmf._infinity_mass + law[2 * REACH + 1 :].sum()


def most_learnt(epsilon, admitted, removed, *, plans=PLANS, runs=4):
    """δ at an ε of the best of all ways to go on, or stop, by what was seen: as a game, from its end.

    Args:
        epsilon: at which δ is asked.
        admitted: by events, whether so many runs are let in.
        removed: direction of add-or-remove-one.
        plans: what a run may be.
        runs: at most.
    """
    so_far = STEP * np.arange(-REACH, REACH + 1)
    stopped = np.maximum(-np.expm1(np.minimum(epsilon - so_far, 0.0)), 0.0)
    laws = [losses_of(plan, removed) for plan in plans]

    @cache
    def value(chosen):
        """At each loss so far ``(2 REACH + 1,)``, whatever the order of the runs."""
        best = stopped
        for plan, (law, beyond) in enumerate(laws) if len(chosen) < runs else ():
            after = tuple(sorted((*chosen, plan)))
            if admitted([plans[one] for one in after]):
                gone_on = fftconvolve(np.pad(value(after), REACH, mode="edge"), law[::-1], mode="valid")
                best = np.maximum(best, np.maximum(gone_on, 0.0) + beyond)
        return best

    return float(value(())[REACH])


def test_by_losses_the_choice_tells_more_than_either_pair():
    """The attack: what was composed held of each pair, and of the choice between them it did not."""
    for second in (EVEN, RARE):
        assert by_losses([FIRST, second]) <= LIMIT
    assert most_learnt(LIMIT, lambda events: by_losses(events) <= LIMIT, removed=True) > 1.5 * DELTA


@pytest.mark.parametrize("removed", [True, False])
@pytest.mark.parametrize("limit", [LIMIT, 9.5, 12.0])
def test_under_the_filter_no_choice_tells_more_than_the_limit(limit, removed):
    """Whatever is chosen, in whatever order, and wherever it is stopped, as long as the limit was fixed before."""
    let_in = []

    def admitted(events):
        found = by_the_filter(events) <= limit
        let_in.extend([len(events)] if found else [])
        return found

    assert most_learnt(limit, admitted, removed) <= DELTA
    assert max(let_in) > 2


def test_the_filter_asks_for_little_more_than_the_losses_of_runs_that_were_laid_down():
    for events in ([FIRST, EVEN], [FIRST] * 2, [EVEN] * 4):
        assert by_losses(events) < by_the_filter(events) < 1.02 * by_losses(events)
    assert math.isfinite(by_the_filter([FIRST, RARE]))


def earlier(mechanism, event):
    return Entry("m", EARLIER_RUNS, NoOpDpEvent(), mechanism, (), (), None, 0.01, False, view_events={VIEW: event})


@pytest.mark.parametrize("listed", [ComposedDpEvent([]), ComposedDpEvent([GaussianDpEvent(2.0)])], ids=["none", "one"])
def test_a_note_beside_one_of_an_earlier_version(listed):
    """A run that another version began, and that went on in a second course here. The note of that is a Gaussian
    mechanism, which alone may tell less than what it is of: its losses were composed with those of the list."""
    event, small = dp_sgd_event(0.15, 0.8, 1), GaussianDpEvent(100.0)
    noted = noted_event([run_cost(event, 0, 0.01)])
    own = Entry("m", "s", small, "", (VIEW,), (), None, 0.01, False)
    entries = [own, earlier(LISTED_EARLIER_RUNS, listed), earlier(EARLIER_RUNS_MECHANISM, noted)]
    spent = coarsely([small, listed, event], 0.01)
    assert coarsely([small, listed, noted], 0.01) < 0.999 * spent
    assert spent < guarantee_with_earlier_runs(entries, VIEW).epsilon < 1.05 * spent
    assert guarantee_with_earlier_runs(entries[:2], VIEW).epsilon <= 1.001 * coarsely([small, listed], 0.01)


def some_plan(rng):
    """A run of up to three stages, in any order."""
    gaussian, often, rarely = np.exp(rng.uniform(np.log(1.5), np.log(12.0), 3)).tolist()
    counts, rate = rng.integers(1, 100, 2).tolist(), float(np.exp(rng.uniform(np.log(1e-3), np.log(0.05))))
    stages = [
        GaussianDpEvent(gaussian),
        dp_sgd_event(often, float(rng.uniform(0.05, 0.6)), counts[0]),
        dp_sgd_event(rarely, rate, counts[1]),
    ]
    return ComposedDpEvent([stages[at] for at in rng.permutation(3)[: rng.integers(1, 4)]])


def play(seed):
    """Some plans, a limit that a few of them reach, and the best of all choices among them, over its δ."""
    rng = np.random.default_rng(seed)
    plans = [some_plan(rng) for _ in range(rng.integers(2, 5))]
    plans = [plan for plan in plans if cost_of(Spending("run", {VIEW: plan}), VIEW, DELTA) > LEAST]
    if not plans:
        return 0.0
    limit = by_the_filter([plans[at] for at in rng.integers(len(plans), size=rng.integers(2, 4))])
    if not limit < 25.0:
        return 0.0

    def admitted(events):
        return by_the_filter(events) <= limit

    return max(most_learnt(limit, admitted, removed, plans=plans) for removed in (True, False)) / DELTA


@pytest.mark.parametrize("seed", range(3))
def test_no_choice_among_some_plans_tells_more(seed):
    assert play(seed) <= 1.0


@pytest.mark.slow
def test_no_choice_among_many_plans_tells_more():
    """Two hundred games; of the best ones some tell nearly all that the limit admits."""
    found = [play(seed) for seed in range(200)]
    assert 0.5 < max(found) <= 1.0
