"""What a page says of attacks: for a claim speaks only what counts."""

from experiments.assessment.findings import attack_rows
from experiments.assessment.record import Verdict
from experiments.compliance.document import EvidenceStated
from experiments.compliance.evidence import WeighedStatement
from experiments.reports.standing import attack_line, counting

ESTIMATE = {"value": 0.01, "low": 0.0, "high": 0.1}
INVERSION = {"view": "server", "aggregation": "ckks", "cohort": 3, "exact_share": ESTIMATE}
MEMBERSHIP = {"market": "m0", "target": "fedmm", "attack": "LiRA", "unit": "user", "view": "release",
              "auc": {**ESTIMATE, "value": 0.5}, "tpr_at_1_percent_fpr": ESTIMATE}  # fmt: skip


def evidence(standing, **results):
    problem = None if standing == "counts" else standing
    stated = EvidenceStated(
        id=standing, kind="attack", signer=None, fingerprint="f" * 39, standing=standing, problem=problem
    )
    return WeighedStatement(stated, results, [None], {})


def line(*found):
    results = {kind: made for item in found for kind, made in item.results.items()}
    return attack_line(attack_rows(results), found)


def as_it_was(*found):
    """Green where any attack counts, and any result, whoever's, is on membership."""
    rows = attack_rows({kind: made for item in found for kind, made in item.results.items()})
    return any(item.attacks for item in counting(found)) and any(row.tpr is not None for row in rows)


def test_a_strangers_membership_attack_does_not_make_up_for_the_one_that_is_missing():
    counted, stranger = evidence("counts", inversion=[INVERSION]), evidence("unsigned", membership=[MEMBERSHIP])
    assert line(counted).text == "attacked, but nobody tried to infer membership"
    assert as_it_was(counted, stranger)  # the attack works on what it was
    assert line(counted, stranger) == line(counted)
    assert line(evidence("counts", membership=[MEMBERSHIP])).colour == "good"
    assert line(stranger).text == "attacked, by results that do not count: unsigned"


def test_membership_by_a_view_that_shows_little_does_not_make_up_for_one_that_shows_more():
    """Of a released model an attack on its service was enough, and one that nothing was held to."""
    within = {"epsilon": 1.0, "delta": 1e-5, "verdict": "within", "detects": 3.0, "targets": 960}
    service = evidence("counts", membership=[{**MEMBERSHIP, "view": "consumer", "bound": within}])
    unheld = evidence("counts", membership=[MEMBERSHIP])
    assert line(service).colour == line(unheld).colour == "good"  # where no view is claimed
    for found in (service, unheld):
        rows = attack_rows(found.results)
        assert attack_line(rows, [found], {"release"}).text.startswith("attacked, but release view: nobody tried")
    both = evidence("counts", membership=[{**MEMBERSHIP, "bound": within}])
    assert attack_line(attack_rows(both.results), [both], {"consumer", "release"}).colour == "good"


def test_one_view_that_could_be_refuted_does_not_make_up_for_one_that_could_not():
    """It was open where no view at all could be: of a released model at ε = 8 an attack on the rounds was enough."""
    within = {"epsilon": 1.0, "delta": 1e-5, "verdict": "within", "detects": 3.0, "targets": 960}
    wide = {"epsilon": 8.0, "delta": 1e-5, "verdict": "cannot be refuted", "detects": None, "targets": 960}
    made = [{**MEMBERSHIP, "view": "market", "bound": within}, {**MEMBERSHIP, "bound": wide}]
    both = evidence("counts", membership=made)
    found = attack_line(attack_rows(both.results), [both], {"market", "release"})
    assert found.colour == "open"
    assert found.text.startswith("attacked, but release view: the guarantee is too wide")
    assert {row.verdict for row in attack_rows(both.results)} != {Verdict.IRREFUTABLE}  # what was asked for
    refutable = evidence("counts", membership=[made[0], {**MEMBERSHIP, "bound": {**within, "epsilon": 8.0}}])
    assert attack_line(attack_rows(refutable.results), [refutable], {"market", "release"}).colour == "good"


def test_what_is_beyond_a_guarantee_speaks_against_it_whoever_says_so():
    beyond = {
        **MEMBERSHIP,
        "bound": {"epsilon": 1.0, "delta": 1e-5, "verdict": "BEYOND", "detects": 3.0, "targets": 960},
    }
    found = line(evidence("counts", membership=[MEMBERSHIP]), evidence("unsigned", membership=[beyond]))
    assert found.colour == "bad"
