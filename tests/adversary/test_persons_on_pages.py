"""A run whose configuration says that user ids are the same people in all markets: what it prints of such a person."""

import io
import re
from dataclasses import asdict

from rich.console import Console

from experiments.commands.budget import _print_budget
from experiments.presentation.text import epsilon_over_markets
from experiments.reports.run import write_report
from experiments.reports.screen import Finished, screen
from experiments.runs.budget import run_budget
from experiments.verification import examine_run
from experiments.verification.evidence import read_evidence
from experiments.verification.opening import opening_findings
from fedmm_secure.data.prepare import load_markets
from fedmm_secure.federation.across_markets import across_markets
from fedmm_secure.guarantee.multipliers import UNKNOWN, MarketSize
from fedmm_secure.guarantee.plan import SpendingPlan
from fedmm_secure.storage.run_directory import read_config, read_metrics
from privacy.accounting.text import epsilon_text
from tests.forgery import Forgery
from tests.released import release_configuration


def composed(config):
    return config.model_copy(update={"data": config.data.model_copy(update={"shared_users": "composed"})})


def test_a_run_of_the_same_people_prints_what_a_person_in_all_markets_spends(released_copy):
    """Three markets of 7.97 each compose to 17.8 for the people that the configuration says they share."""
    forgery = Forgery(released_copy)
    forgery.configure("data", shared_users="composed")
    forgery.finish(owner=True)
    examined = examine_run(released_copy)
    assert any("privacy.across_markets" in found.what for found in examined.findings)  # not what the plans give
    config, metrics = read_config(released_copy), read_metrics(released_copy)
    evidence, _ = read_evidence(released_copy, config, metrics)
    assert not opening_findings(evidence)
    persons = asdict(across_markets(evidence.plans))
    alone = max(found["release"]["epsilon"] for found in metrics["privacy"]["markets"].values())
    assert 2 * alone < persons["epsilon"]["release"] < 3 * alone
    forgery = Forgery(released_copy)
    forgery.json("metrics.json", lambda said: said["privacy"].update(across_markets=persons))
    forgery.finish(owner=True)
    examined = examine_run(released_copy)
    assert not any("across_markets" in found.what for found in examined.findings)
    wanted = f"for a person with rows in all markets: {epsilon_text(persons['epsilon']['release'])}"
    write_report(released_copy)
    text = re.sub(r"<[^>]+>", "", (released_copy / "report.html").read_text(encoding="utf-8"))
    assert wanted in re.sub(r"\s+", " ", text)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(screen(Finished(released_copy, config, read_metrics(released_copy), examined)))
    shown = console.export_text()
    assert epsilon_text(persons["epsilon"]["release"]) in shown
    assert "rows in all markets" in shown
    assert epsilon_over_markets(read_metrics(released_copy), "release") == persons["epsilon"]["release"]


def test_a_budget_for_the_same_people_says_what_a_person_in_all_markets_spends(capsys):
    config = composed(release_configuration())
    markets = load_markets(config.data)
    found = run_budget(config, markets)
    assert max(plan["views"]["release"] for plan in found.values()) <= 8.0
    persons = found["m0"]["across_markets"]
    assert 16.0 < persons["epsilon"]["release"] < 24.0
    assert persons["problem"] is None
    _print_budget(found, dict.fromkeys(found, "0.1 to 40"))
    assert "one person in all" in capsys.readouterr().out
    assert "across_markets" not in run_budget(release_configuration(), markets)["m0"]


def test_sizes_that_nobody_stated_give_no_figure():
    config = composed(release_configuration())
    market = load_markets(config.data)[0]
    sizes = {market.name: MarketSize(market.n_users, market.n_items), "elsewhere": UNKNOWN}
    found = across_markets({market.name: SpendingPlan.of(config, market.name, sizes)})
    assert set(found.epsilon.values()) == {None}
    assert "sizes" in str(found.problem)
