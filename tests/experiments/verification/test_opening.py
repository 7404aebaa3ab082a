"""ε is stated on the grid that fits; a run of earlier code may have it, all of it, on the finest."""

import copy
from dataclasses import replace

import pytest

from experiments.verification.evidence import read_configuration, read_evidence
from experiments.verification.opening import statement_findings
from fedmm_secure.guarantee.statement import guarantees
from privacy.accounting.guarantees import STATED_EARLIER

MARKETS = ("m0", "m1", "m2")


@pytest.fixture
def evidence(released_run):
    return read_evidence(released_run, *read_configuration(released_run))[0]


@pytest.fixture
def stated_earlier(evidence):
    """Its metrics, with the statements of the markets as earlier code had them."""

    def state(markets):
        metrics = copy.deepcopy(dict(evidence.metrics))
        for market in markets:
            entries = evidence.ledgers[market].entries
            metrics["privacy"]["markets"][market] = guarantees(evidence.config, entries, STATED_EARLIER)
        return metrics

    return state


def findings(evidence, metrics, code):
    return statement_findings(replace(evidence, metrics=metrics, environment={**evidence.environment, "code": code}))


def test_statements_of_earlier_code_hold(evidence, stated_earlier):
    earlier = stated_earlier(MARKETS)
    epsilons = [found["privacy"]["markets"]["m0"]["release"]["epsilon"] for found in (earlier, evidence.metrics)]
    assert epsilons[0] < epsilons[1] < 1.001 * epsilons[0]
    assert findings(evidence, earlier, "f" * 64) == []
    assert findings(evidence, evidence.metrics, "f" * 64) == []


def test_of_this_code_they_do_not_and_nobody_chooses_market_by_market(evidence, stated_earlier):
    here = evidence.environment["code"]
    assert findings(evidence, evidence.metrics, here) == []
    assert any("the ledger gives" in found.what for found in findings(evidence, stated_earlier(MARKETS), here))
    assert findings(evidence, stated_earlier(["m1"]), "f" * 64)


def test_less_than_the_finest_grid_gives_is_found(evidence, stated_earlier):
    less = stated_earlier(MARKETS)
    less["privacy"]["markets"]["m1"]["release"]["epsilon"] *= 1 - 1e-5
    assert any("claimed epsilon" in found.what for found in findings(evidence, less, "f" * 64))
