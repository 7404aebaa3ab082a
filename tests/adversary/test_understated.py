"""An ε that is printed must hold for what is drawn: discrete noise, a share of δ spent elsewhere, rounding.

The attack is arithmetic: compose the events that a plan lists at the whole of δ, and print that.
"""

import ast
from pathlib import Path

import pytest

from experiments.runs.budget import market_budget, planned_entries
from fedmm_secure.data.prepare import load_markets
from fedmm_secure.guarantee.multipliers import MarketSize
from fedmm_secure.guarantee.observed import observed_by_view
from fedmm_secure.guarantee.plan import SpendingPlan
from privacy.accounting.accountants import pld_epsilon
from privacy.accounting.guarantees import view_guarantee
from tests.released import release_configuration

ROOT = Path(__file__).parents[2]
BARE = {"pld_epsilon", "prv_epsilon", "finely", "group_pld_epsilon", "composed_losses", "composed_epsilon_of"}
MAY_ASK_AN_ACCOUNTANT = {  # and why
    # an audit refutes the continuous model, by its trade-off curve; a lower claim is stricter
    "attacks/auditing/claims.py",
}
MAY_FORMAT = {
    "fedmm_secure/federation/budget.py",  # the budget, as it was configured
    "privacy/accounting/text.py",  # after rounding up
}


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_budget_that_leaves_out_delta_spent_elsewhere(share):
    config = release_configuration(catalogue="discovered", discovery={"items_per_user": 8, "delta_share": share})
    markets = load_markets(config.data)
    market = markets[0]
    printed = market_budget(config, market, markets)["views"]["release"]
    sizes = {name: MarketSize(market.n_users if name == "m0" else 0, 0) for name in ("m0", "m1", "m2")}
    plan = SpendingPlan.of(config, "m0", sizes).with_items(market.n_items)  # as a ledger has it
    entries = [release.entry("m0", delta=plan.delta, seeded=False) for release in plan.releases()]
    proved = view_guarantee(entries, "release").epsilon
    bare = pld_epsilon([observed_by_view(plan)["release"]], plan.delta)
    assert bare < proved  # the attack works: the whole of δ, continuous noise
    assert proved <= printed * (1 + 1e-9)
    assert printed <= proved * 1.001
    assert len(planned_entries(plan)) == len(entries)


def accountants_asked(source):
    """Names of bare accountants in a module's code, however they are imported."""
    if not any(name in source for name in BARE):
        return set()
    nodes = list(ast.walk(ast.parse(source)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return names & BARE


def test_nothing_outside_the_accounting_asks_an_accountant():
    """Its answer alone does not hold for what is drawn; ``composed_epsilon`` adds what is missing."""
    assert accountants_asked("import accountants as a\nprint(a.pld_epsilon([], 1e-5))") == {"pld_epsilon"}
    found = {
        path.relative_to(ROOT).as_posix()
        for package in ("privacy", "fedmm_secure", "attacks", "experiments")
        for path in (ROOT / package).rglob("*.py")
        if accountants_asked(path.read_text(encoding="utf-8"))
    }
    assert {name for name in found if not name.startswith("privacy/accounting/")} == MAY_ASK_AN_ACCOUNTANT


def epsilons_formatted(source):
    """Lines that write something named ε by digits, or round it: to the nearest, which may be below it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        rounds = isinstance(node, ast.Call) and ast.unparse(node.func) == "round" and len(node.args) == 2
        if rounds and any(name in ast.unparse(node.args[0]) for name in ("epsilon", "claimed")):
            found.append(node.lineno)
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
            spec, value = ast.unparse(node.format_spec), ast.unparse(node.value)
            if "epsilon" in value and "." in spec:
                found.append(node.lineno)
    return found


def test_nothing_prints_an_epsilon_rounded_down():
    assert epsilons_formatted('print(f"{found.epsilon:.3g}")') == [1]  # 7.956 would read 7.96, and 8.0049 as 8
    assert epsilons_formatted("Stated(round(one.result.claimed, 6))") == [1]  # as it stood in a compliance report
    found = {
        f"{path.relative_to(ROOT)}:{line}"
        for package in ("privacy", "fedmm_secure", "attacks", "experiments")
        for path in (ROOT / package).rglob("*.py")
        for line in epsilons_formatted(path.read_text(encoding="utf-8"))
        if path.relative_to(ROOT).as_posix() not in MAY_FORMAT
    }
    assert found == set()
