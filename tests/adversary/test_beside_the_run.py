"""What anyone can write beside a signed run: results that hide results, pages that nobody checks, plans without end."""

import json
import time

import pytest

from experiments.assessment.statements import (
    EvidenceFile,
    add_statement,
    audit_file,
    make_statement,
    merge,
    read_audits,
)
from experiments.verification import examine_run
from experiments.verification.schemas import metrics_problems
from fedmm_secure.config import config_from_data
from fedmm_secure.errors import ConfigError
from fedmm_secure.federation.closing import read_metrics
from privacy.aggregation.identities import Identity
from privacy.files import write_json
from tests.conftest import tiny
from tests.released import release_configuration

FOUND = {
    "market": "m0", "stage": "ctr", "game": "crafted user", "claimed": 1.0, "detects": 1.5, "low_fdp": 2.0,
    "low_one_run": None, "canaries": 500, "verdict": "VIOLATED",
}  # fmt: skip
DENIED = {**FOUND, "low_fdp": 0.1, "verdict": "not refuted"}


def latest_wins(statements):
    """The broken rule: whoever writes last is right."""
    latest = {}
    for statement in statements:
        for result in statement.results["audit"]:
            latest[result["market"], result["stage"], result["game"]] = result
    return list(latest.values())


def verdicts(run):
    return sorted(result["verdict"] for result in read_audits(run)["m0"])


def append(run, *statements):
    path = audit_file(run, "m0")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, EvidenceFile(statements=list(statements)).model_dump(mode="json"))


def test_a_statement_without_a_signature_hides_what_an_auditor_signed(released_copy):
    auditor = Identity.generate("auditor")
    signed = make_statement(released_copy, "audit", {}, {"audit": [FOUND]}, auditor)
    denial = make_statement(released_copy, "audit", {}, {"audit": [DENIED]}, None)
    assert [result["verdict"] for result in latest_wins([signed, denial])] == ["not refuted"]  # it worked so
    append(released_copy, signed, denial)
    assert verdicts(released_copy) == ["VIOLATED", "not refuted"]


def test_a_statement_in_an_auditors_name_hides_what_they_signed(released_copy):
    auditor, other = Identity.generate("auditor"), Identity.generate("other")
    signed = make_statement(released_copy, "audit", {}, {"audit": [FOUND]}, auditor)
    denial = make_statement(released_copy, "audit", {}, {"audit": [DENIED]}, other)
    in_their_name = denial.model_copy(update={"signature": signed.signature})
    append(released_copy, signed, denial, in_their_name)
    assert verdicts(released_copy) == ["VIOLATED", "not refuted", "not refuted"]


def test_auditors_themselves_replace_what_they_said(released_copy):
    auditor = Identity.generate("auditor")
    first = make_statement(released_copy, "audit", {}, {"audit": [FOUND]}, auditor)
    again = make_statement(released_copy, "audit", {}, {"audit": [DENIED]}, auditor)
    assert [result["verdict"] for result in merge([first, again])["audit"]] == ["not refuted"]
    path = audit_file(released_copy, "m0")
    add_statement(released_copy, path, first)
    assert [result["verdict"] for result in add_statement(released_copy, path, again)["audit"]] == ["not refuted"]


def test_whatever_lies_beside_the_run_is_named(released_copy):
    beside = {"cell.json", "failure.json", "compliance.html", "compliance.json", "log.jsonl"}
    beside |= {"compliance.intoto.json", "registry.yaml", "bom.cdx.json"}
    for name in beside:
        (released_copy / name).write_text("user17,item3\n")
    (released_copy / "audit" / "m0").mkdir(parents=True)
    (released_copy / "audit" / "m0" / "audit.json").write_bytes(b"user17")
    (released_copy / "tensorboard").mkdir()
    (released_copy / "tensorboard" / "rows.bin").write_bytes(b"user17")
    examined = examine_run(released_copy)
    assert examined.findings == []
    (note,) = [note for note in examined.notes if note.startswith("not read, so not vouched for")]
    named = {name.strip() for name in note.split(":")[1].split(",")}
    assert named == beside | {"audit/", "tensorboard/", "state/"}


@pytest.mark.parametrize(("what", "amount"), [("seconds", 0.72), ("memory", 10**8)])
def test_what_stages_took_is_not_told_under_a_budget(released_run, what, amount):
    metrics = read_metrics(released_run)
    assert metrics[what] == {}
    assert json.loads((released_run / "state" / f"{what}.json").read_text())["ctr"] > 0  # the owner may know
    told = {**metrics, what: {"budget": amount}}
    problems = list(metrics_problems(release_configuration(user_codes_epsilon=2.0), told))
    assert problems == [f"{what}: says what stages took, which no budget pays for"]


@pytest.mark.parametrize(("seeds", "rounds"), [(20, 10_000), (101, 1), (2, 5_001)])
def test_a_plan_without_end_is_refused_before_it_is_made(seeds, rounds):
    data = tiny().model_dump(mode="json")
    data["seed"], data["federation"]["rounds"] = list(range(seeds)), rounds
    start = time.process_time()
    with pytest.raises(ConfigError, match=r"of at most 10000|at most 100 items"):
        config_from_data(data, source="config.yaml")
    assert time.process_time() - start < 5
