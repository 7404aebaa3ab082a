"""PRV over a range that integer moments show: what Opacus answers, and an upper bound."""

import dp_accounting
import numpy as np
import pytest
from opacus.accountants import PRVAccountant

from privacy.accounting import random_variables
from privacy.accounting.random_variables import composed_epsilon_of

CASES = {
    "a run": {(0.7, 1.0): 1, (0.9, 1.0): 1, (3.2, 0.2): 40, (6.3, 0.5): 100},
    "a small budget": {(20.0, 1.0): 1, (80.0, 0.2): 40},
    "rare samples": {(0.6, 0.001): 2000},
    "little noise": {(0.5, 0.3): 3},
}


@pytest.mark.parametrize("steps", CASES.values(), ids=CASES)
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_it_is_what_opacus_answers(steps, delta):
    opacus = PRVAccountant()
    opacus.history = [(noise, rate, count) for (noise, rate), count in steps.items()]
    with np.errstate(divide="ignore"):
        theirs = float(opacus.get_epsilon(delta, eps_error=0.01))
    ours = composed_epsilon_of(steps, delta, error=0.01)
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("noise", [0.3, 1.0, 5.0, 50.0])
def test_it_is_above_the_closed_form_by_twice_its_error(noise):
    exact, error = dp_accounting.get_epsilon_gaussian(noise, 1e-5), 0.002
    found = composed_epsilon_of({(2.0 * noise, 1.0): 4}, 1e-5, error=error)
    assert exact <= found <= exact * (1 + 1e-3) + 2.5 * error


@pytest.mark.parametrize("steps", CASES.values(), ids=CASES)
def test_one_step_after_the_other_it_is_the_same(steps, monkeypatch):
    """More of them than fit into memory together."""
    together = composed_epsilon_of(steps, 1e-5, error=0.01)
    monkeypatch.setattr(random_variables, "_AT_ONCE", 0)
    assert composed_epsilon_of(steps, 1e-5, error=0.01) == pytest.approx(together, rel=1e-7)


def test_more_than_are_composed_have_no_bound(monkeypatch):
    monkeypatch.setattr(random_variables, "_MOST_NUMBERS", 1000)
    assert composed_epsilon_of(CASES["a run"], 1e-5, error=0.01) == np.inf
