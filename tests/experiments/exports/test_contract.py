"""The contract of exports, which every format meets: a function of the report, with its figures and its doubts."""

import json

import pytest

from experiments.exports.attestation import statement_bytes
from experiments.exports.bom import bill_of_materials
from experiments.exports.registry import registry_record, registry_text

EXPORTS = {
    "attestation": lambda report: statement_bytes(report).decode(),
    "bom": lambda report: json.dumps(bill_of_materials(report.document)),
    "registry": lambda report: registry_text(registry_record(report.document)),
}


@pytest.fixture(params=EXPORTS)
def export(request):
    return EXPORTS[request.param]


def changed(report, **parts):
    return report.model_copy(update={"document": report.document.model_copy(update=parts)})


def test_it_is_a_function_of_the_report(export, report):
    assert export(report) == export(report.model_validate_json(report.model_dump_json()))


def test_it_carries_the_claimed_figures(export, report):
    assert "19.62" not in export(report)
    for name, market in report.document.markets.items():
        views = {**market.views, "release": market.views["release"].model_copy(update={"epsilon": 19.625})}
        dearer = {**report.document.markets, name: market.model_copy(update={"views": views})}
        assert "19.62" in export(changed(report, markets=dearer))


def test_it_says_what_speaks_against_the_guarantee(export, report):
    reason = "noise from a seed that many know"
    verdict = report.document.verdict.model_copy(update={"compliant": False, "reasons": [reason]})
    assert reason in " ".join(export(changed(report, verdict=verdict)).split())
