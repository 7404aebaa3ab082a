"""A report says nothing of a run that the run does not have."""

import pytest

from experiments.assessment.records import RISKS
from experiments.compliance.document import AttackStated, EvidenceStated, SignedReport
from experiments.compliance.judgement import not_guaranteed
from experiments.compliance.questions import EDPB, GDPR, ISO, NIST, WP216, answer_questions
from experiments.compliance.signing import page
from tests.adversary.test_compliance import document


def answers(found):
    return {(one.framework, one.topic): one.answer for one in answer_questions(found)}


LESS, MEASURES = (GDPR, "(b) necessity and proportionality"), (GDPR, "(d) measures")


@pytest.mark.parametrize(
    ("baselines", "said", "absent"),
    [
        ([], ["shows no other model"], ["gives the accuracy"]),
        (["popularity"], ["accuracy of popularity", "Not measured: codes without federation, a model of ids"], []),
        (["local-codes", "local-ids"], ["accuracy of local-codes, local-ids"], ["Not measured"]),
    ],
)
def test_what_was_compared(baselines, said, absent):
    text = answers(document(run={"baselines": baselines}))[LESS]
    assert all(part in text for part in said), text
    assert not any(part in text for part in absent), text


def test_measures_are_those_of_the_run():
    text = answers(document())[MEASURES]
    assert text.startswith("User-level differential privacy (ctr), encrypted aggregation (ckks), sums of at least 3")
    assert "audits" not in text
    assert "attacks" not in text
    bare = answers(document(epsilon=None, run={"aggregation": "plaintext", "smallest_cohort": 1}))[MEASURES]
    assert bare.startswith("A ledger that is written before each release, verification without findings;")


def test_updates_in_the_clear_are_not_called_encrypted():
    said = answers(document(run={"aggregation": "plaintext"}))
    assert "reads them in the clear" in said[NIST, "trust model"]
    assert "in the clear" in said[GDPR, "(a) description of the processing"]
    assert "iphertext" not in "".join(said.values())


def test_noise_that_is_not_there_is_not_named():
    said = answers(document(epsilon=None))
    assert said[ISO, "mitigation"] == "No stage adds noise. User codes stay inside."
    assert said[NIST, "mechanism"] == "None: no stage has a mechanism. Without a guarantee: ctr."
    assert "No stage adds noise" in said[NIST, "side channels"]
    assert "nothing bounds" in said[NIST, "variant and conversion"]
    assert "No view has a figure" in said[EDPB, "likelihood of extraction and of answers about persons"]
    assert "exact: quantizer" in said[NIST, "trust model"]


def test_findings_and_missing_accounts_are_not_passed_over():
    found = document(run={"synthetic": True})
    found.verification.__dict__["verified"] = False
    said = answers(found)
    assert "is not claimed" in said[NIST, "variant and conversion"]
    assert "verification without findings" not in said[MEASURES]
    assert "no privacy account" in said[ISO, "governance"]
    assert "No privacy account" in answers(document(runs={"runs": None}))[ISO, "governance"]


def test_what_an_attack_takes_in_queries_is_said_where_it_was_measured():
    """EDPB Opinion 28/2024, 41: all means reasonably likely to be used."""
    topic = EDPB, "likelihood of extraction and of answers about persons"
    assert "in queries about one person, was not measured" in answers(document())[topic]
    asked = [("at most 5 queries", 0.61), ("1 query", 0.53)]
    stated = [
        AttackStated(kind="query-budget", attack=f"membership of users in m, by {budget} about each", view="consumer",
                     measure="AUC", success=auc, low=auc - 0.02, high=auc + 0.02, chance=0.5, over="pipelines",
                     verdict=None, says="5.0 queries about each on average", evidence="e")
        for budget, auc in asked
    ]  # fmt: skip
    counts = EvidenceStated(id="e", kind="attack", signer="a", fingerprint="f", standing="counts", problem=None)
    said = answers(document().model_copy(update={"attacks": stated, "evidence": [counts]}))[topic]
    assert "by 1 query about each (5.0 queries about each on average): AUC 0.530 [0.510, 0.550]; membership" in said
    assert "by at most 5 queries about each (5.0 queries about each on average): AUC 0.610 [0.590, 0.630]." in said


def test_an_auditor_who_knows_all_noise_is_named_among_what_is_not_covered():
    card = "0123 4567"
    found = document(run={"replay_auditor": card})
    assert any(text.endswith(card) and "no figure of this report holds" in text for text in not_guaranteed(found))
    assert card in answers(found)[NIST, "side channels"]
    assert not any("auditor" in text for text in not_guaranteed(document()))


def test_the_three_risks_are_answered_by_what_counts():
    """Each by its own attacks, with intervals; what nobody measured is said to be so."""
    linked = AttackStated(kind="linkability", attack="linkability in m, from codes: two halves", view="profile",
                          measure="share of attacks", success=0.25, low=0.2, high=0.3, chance=0.02, over="attacks",
                          verdict=None, says="risk 0.200 [0.150, 0.250] beyond others", evidence="e")  # fmt: skip
    counts = EvidenceStated(id="e", kind="attack", signer="a", fingerprint="f", standing="counts", problem=None)
    found = document().model_copy(update={"attacks": [linked], "evidence": [counts]})
    said = answers(found)
    assert "that succeed 0.250 [0.200, 0.300]; risk 0.200 [0.150, 0.250]" in said[WP216, "linkability"]
    assert said[WP216, "singling out"] == said[WP216, "inference"] == "Not measured: no such attack counts."
    assert said[EDPB, "testing and resistance to attacks"].startswith("No attack counts.")
    assert {one.replace("-", " ") for one in RISKS} == {topic for framework, topic in said if framework == WP216}


@pytest.mark.parametrize(
    ("ceiling", "said"), [(None, "No ceiling on what they come to"), (8.0, "ceiling on all together, ε 8;")]
)
def test_where_runs_are_counted_it_says_whether_the_first_fixed_a_ceiling(ceiling, said):
    found = document(runs={"runs": 2, "ceiling": ceiling})
    assert said in answers(found)[(ISO, "governance")]
    assert said in page(SignedReport(document=found, signature=None))
