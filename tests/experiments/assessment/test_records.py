"""The seam of attacks: what every record holds to, and that a record is all that readers need."""

import string
import subprocess
import sys
from dataclasses import fields
from pkgutil import resolve_name
from unittest.mock import patch

import pytest

from attacks.disclosure.risk import Risk
from attacks.extraction.surrogate import Extraction
from attacks.inversion.assignments import UsageInference
from attacks.inversion.deltas import DeltaRecovery
from attacks.inversion.reconstruction import HistoryRecovery, Reconstruction
from attacks.metrics import MembershipMetrics
from attacks.poisoning.evaluate import Damage
from attacks.properties.worlds import PropertyInference
from experiments.assessment.findings import attack_rows, beyond_bounds
from experiments.assessment.record import Attack, Column, Verdict
from experiments.assessment.records import ATTACKS
from experiments.assessment.statements import ResultStatement, merge
from experiments.commands.attack import print_attacks
from experiments.sweep.table import attack_metrics
from fedmm_secure.guarantee.stages import ALL_VIEWS

HEAVY = ("torch", "sklearn", "jax", "matplotlib", "pandas", "opacus")
SCORED = {  # what scores each attack
    "inversion": DeltaRecovery,
    "reconstruction": Reconstruction,
    "usage": UsageInference,
    "histories": HistoryRecovery,
    "membership": MembershipMetrics,
    "query-budget": MembershipMetrics,
    "singling-out": Risk,
    "linkability": Risk,
    "inference": Risk,
    "extraction": Extraction,
    "property": PropertyInference,
    "poisoning": Damage,
}
ADDED = Attack(
    name="guess",
    title="guessing of shoe sizes",
    prior_knowledge="the market's weather",
    views=("consumer",),
    path="tests.experiments.assessment.test_records:guess",
    about=("market", "hat"),
    columns=(Column("hat", lambda result: str(result["hat"])),),
    tried="shoe sizes in {market}",
    measure="share",
    success="hit",
    over="hats",
    chance="prior",
)


def guess(attacked):
    return [result(0.2, "tall"), result(0.4, "flat")]


def result(value, hat, **more):
    hit = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return {"market": "m0", "view": "consumer", "hat": hat, "hit": hit, "prior": 0.125, **more}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_a_record_is_complete(attack):
    assert callable(resolve_name(attack.path))
    assert attack.figure is None or callable(resolve_name(attack.figure))
    assert {view for views in attack.views for view in views.split(" and ")} <= set(ALL_VIEWS)
    scored = {field.name for field in fields(SCORED[attack.name])}
    assert attack.success in scored
    assert not isinstance(attack.chance, str) or attack.chance in scored
    named = {name for _, name, _, _ in string.Formatter().parse(attack.tried) if name}
    assert named <= scored | set(attack.about) | {"cohort"}


def test_records_import_nothing_heavy():
    code = "import sys, experiments.assessment.findings; print(*(set(sys.argv[1:]) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code, *HEAVY], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


@pytest.fixture
def added():
    with patch.dict("experiments.assessment.records.ATTACKS", {"guess": ADDED}):
        yield {"guess": ADDED.make(None)}


def test_a_record_is_all_that_readers_need(added, capsys):
    """Page, compliance report, sweep table and command show an attack that none of them knows."""
    assert [(row.attack, row.view, row.measure, row.success["value"], row.chance) for row in attack_rows(added)] == [
        ("shoe sizes in m0", "consumer", "share", 0.2, 0.125),
        ("shoe sizes in m0", "consumer", "share", 0.4, 0.125),
    ]
    about = {"market": "m0", "model": None, "unit": None, "view": "consumer"}
    assert list(attack_metrics(added)) == [{**about, "metric": "guess_hit", **added["guess"][1]["hit"]}]
    print_attacks(added)
    shown = capsys.readouterr().out
    assert "guessing of shoe sizes" in shown
    assert "tall" in shown
    assert all(found["prior_knowledge"] == "the market's weather" for found in added["guess"])


def test_a_later_result_about_the_same_replaces_an_earlier_one(added):
    head = {"kind": "attack", "created": "2026-01-01T00:00:00+00:00", "settings": {}, "signature": None}
    binding = {"run": "x", "ledgers": {}, "code": ""}
    first = ResultStatement(**head, binding=binding, results=added)
    second = ResultStatement(**head, binding=binding, results={"guess": [result(0.9, "flat")]})
    found = merge([first, second])["guess"]
    assert [(kept["hat"], kept["hit"]["value"]) for kept in found] == [("tall", 0.2), ("flat", 0.9)]


def test_what_a_guarantee_rules_out_is_named_whatever_the_attack(added):
    bound = {"epsilon": 1.0, "delta": 0.0, "verdict": "BEYOND", "detects": 3.0, "targets": 9}
    found = {"guess": [result(0.9, "flat", bound=bound), result(0.9, "tall", bound=None)]}
    assert beyond_bounds(found) == ["m0, flat: BEYOND ε 1"]
    assert [row.verdict for row in attack_rows(found)] == [Verdict.BEYOND, None]


def test_results_of_an_unknown_kind_are_left_out(added):
    assert attack_rows({"seance": [{"spirit": 1}]}) == []
    assert beyond_bounds({"seance": [{"spirit": 1}]}) == []
