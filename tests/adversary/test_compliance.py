"""A report that says yes too easily: delta, ceiling, seed, float noise, an open ledger, and results that anyone wrote.

Each attack first works on the rules of the first version, in short, and then fails on the product.
"""

import json
import math
import shutil

import pytest
from pydantic import ValidationError, field_validator

from experiments.assessment.findings import attack_rows
from experiments.assessment.statements import add_statement, attacks_file, audit_file, binding_of, make_statement
from experiments.compliance.build import build_document
from experiments.compliance.document import (
    MOST_TRUSTED,
    AcrossMarkets,
    AllRuns,
    AttackStated,
    CatalogueStated,
    Declarations,
    Document,
    GuaranteeStated,
    LedgerStated,
    MarketStated,
    RunStated,
    SignedReport,
    VerdictStated,
    Verification,
)
from experiments.compliance.evidence import examine, trusting
from experiments.compliance.judgement import claimed_epsilon, colour, counted_attacks, document_verdict
from experiments.compliance.signing import page, sign, signature_problem
from fedmm_secure.storage.provenance import code_version
from privacy.accounting.ledger import Ledger
from privacy.aggregation.identities import Identity
from tests.command_line import fedmm
from tests.manipulations import ROWS

N = 400
SIGNER, OWNER = " ".join(["4567"] * 8), " ".join(["0123"] * 8)
VIEWS = ("server", "market", "collusion", "consumer", "release")
AUDIT = {"market": "m", "stage": "ctr", "game": "crafted user", "claimed": 1.0, "detects": 1.5, "low_fdp": 2.0,
         "low_one_run": None, "canaries": 500, "verdict": "VIOLATED", "p_value": 0.5, "level": 0.005}  # fmt: skip
SUCCESS = {"value": 0.99, "low": 0.98, "high": 1.0}
ATTACK = {"market": "m", "target": "fedmm", "attack": "LiRA", "unit": "user", "view": "release",
          "auc": SUCCESS, "tpr_at_1_percent_fpr": SUCCESS,
          "bound": {"epsilon": 1.0, "delta": 1e-3, "verdict": "BEYOND", "detects": 3.0, "targets": 960}}  # fmt: skip


def everywhere(kept):
    """An attack by two views: of what is claimed no other shows more."""
    return [{**ATTACK, **kept, "view": view} for view in ("market", "release")]


def document(*, delta=N**-1.1, epsilon=8.0, ledger=(), run=(), declared=(), evidence=(), runs=(), across=20.0):
    """A report on one market, faultless unless told otherwise."""
    stated = {view: GuaranteeStated(epsilon=epsilon, delta=delta, unit="user", basis="") for view in VIEWS}
    held = {"file": "ledger/m.jsonl", "sha256": None, "lines": 9, "head": "0" * 64, "data": None, "seeded": False,
            "exact": True, "closed_by": OWNER, "self_signed": False}  # fmt: skip
    about = {"name": "run", "id": "1", "configuration_sha256": "0" * 64, "protect": "release", "aggregation": "ckks",
             "claimed_views": list(VIEWS), "seeds": [0], "tuned": False, "private_evaluation": False,
             "shared_users": "refused", "one_noise": False, "synthetic": False,
             "baselines": [], "summed": ["quantizer"], "smallest_cohort": 3,
             "replay_auditor": None}  # fmt: skip
    said = {"signer": SIGNER, "trusted": [{"name": "owner", "fingerprint": OWNER}], "sole_run": False,
            "max_epsilon": 8.0, "max_delta": None}  # fmt: skip
    every = dict.fromkeys(VIEWS, epsilon)
    spent = {"runs": 1, "problem": None, "without_bound": 0, "as_planned": True, "epsilon": every, "ledger_runs": 1,
             "ledger_epsilon": every, "ceiling": None}  # fmt: skip
    market = MarketStated(
        users=N,
        items=100,
        catalogue=CatalogueStated(kind="file", sha256="0" * 64, size=100),
        views={**stated, "profile": stated["release"]},
        changed_rows=stated,
        stages={"ctr": epsilon},
        noise_multipliers={"ctr": 1.0},
        mechanisms={"ctr": "DP-SGD"},
        shown={},
        all_runs=AllRuns(**{**spent, **dict(runs)}),
        ledger=LedgerStated(**{**held, **dict(ledger)}),
        audit=[audit for found in evidence for audit in found.audits.get("m", [])],
        canaries=[],
        canary_file=None,
        canary_users=[one for found in evidence for one in found.canary_users.get("m", [])],
    )
    found = Document(
        created="2026-01-01T00:00:00+00:00",
        run=RunStated(**{**about, **dict(run)}),
        declarations=Declarations(**{**said, **dict(declared)}),
        verdict=VerdictStated(compliant=False, reasons=[], open=[]),
        markets={"m": market},
        across_markets=AcrossMarkets(markets=1, epsilon=dict.fromkeys(VIEWS, across), delta=delta, problem=None),
        verification=Verification(verified=True, findings=[], checked=[], unchecked=[]),
        evidence=[found.stated for found in evidence],
        attacks=[attack for found in evidence for attack in found.attacks],
        assumptions=[],
        not_guaranteed=[],
        questions=[],
        environment={},
    )
    return found.model_copy(update={"verdict": document_verdict(found)})


@pytest.mark.parametrize(
    ("runs", "declared", "said"),
    [
        ({"runs": 1}, {}, None),
        ({"runs": 2}, {}, "2 runs"),
        ({"runs": 2, "ceiling": 8.0}, {}, None),
        ({"runs": 2, "ceiling": 8.1}, {}, "2 runs"),
        ({"runs": 1, "ledger_runs": 3}, {}, "3 runs"),
        ({"runs": 2}, {"sole_run": True}, None),
    ],
)
def test_a_limit_on_several_runs_was_fixed_before_them_or_that_is_left_open(runs, declared, said):
    found = [item for item in document(runs=runs, declared=declared).verdict.open if "was fixed" in item]
    what = f"m: declared, not shown: that the limit 8 was fixed before the first of {said} on the data was looked at"
    assert found == ([] if said is None else [what])


@pytest.mark.parametrize(("number", "users"), [(1, "composed"), (2, "distinct"), (2, "composed")])
def test_a_ceiling_of_each_market_fixes_none_on_a_person_in_several(number, users):
    """A report on people in several markets took those of the markets for one on them, and left nothing open."""
    found = document(runs={"runs": number, "ceiling": 8.0}, run={"shared_users": users}, across=7.9).verdict
    of_persons = [item for item in found.open if item.startswith("people in several markets: declared")]
    assert (found.compliant, len(of_persons)) == (True, int((number, users) == (2, "composed")))


def old_judge(document, limit=None):
    """The rules of the first version: no word on delta, exactness or an end, no ceiling unless somebody gave one."""
    for market in document.markets.values():
        if market.ledger.seeded or any(audit.verdict == "VIOLATED" for audit in market.audit):
            return False
        epsilons = [market.views[view].epsilon for view in document.run.claimed_views]
        if None in epsilons or (limit is not None and max(epsilons) > limit):
            return False
    return not any(attack.verdict == "BEYOND" for attack in document.attacks)


def old_audits(run):
    """What the first version took for an audit: whatever lay in the directory."""
    found = []
    for path in sorted(run.glob("audit/*/audit.json")):
        held = json.loads(path.read_text())
        statements = held.get("statements", [held])
        found += [result for statement in statements for result in statement["results"]["audit"]]
    return found


def make_run(path, number):
    """As much of a run directory as evidence is bound to."""
    Ledger(path / "ledger" / "m.jsonl").open({"run": f"{number:032x}", "code": code_version()})
    return path


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", 1)


@pytest.fixture(scope="module")
def auditor():
    return Identity.generate("auditor")


def audited(run, identity, **changes):
    results = {"audit": [{**AUDIT, **changes}]}
    add_statement(run, audit_file(run, "m"), make_statement(run, "audit", {"level": 0.05}, results, identity))


def test_a_faultless_report_is_compliant_but_green_only_with_evidence(run, auditor):
    assert document_verdict(document()).compliant
    assert colour(document()) == "open"
    audited(run, auditor, verdict="not refuted", low_fdp=0.5)
    kept = {"bound": {"epsilon": 8.0, "delta": 1e-3, "verdict": "within", "detects": 12.0, "targets": 960}}
    results = {"membership": everywhere(kept)}
    add_statement(run, attacks_file(run), make_statement(run, "attack", {}, results, auditor))
    assert colour(document(evidence=examine(run))) == "good"


def test_a_report_on_nobodys_rows_is_taken_for_one_on_somebodys(run, auditor):
    """It holds as it stands, and green would say that people are protected by it."""
    audited(run, auditor, verdict="not refuted", low_fdp=0.5)
    kept = {"bound": {"epsilon": 8.0, "delta": 1e-3, "verdict": "within", "detects": 12.0, "targets": 960}}
    add_statement(
        run,
        attacks_file(run),
        make_statement(
            run,
            "attack",
            {},
            {"membership": everywhere(kept)},
            auditor,
        ),
    )
    assert colour(document(evidence=examine(run))) == "good"  # the attack works where nothing says whose rows they are
    generated = document(evidence=examine(run), run={"synthetic": True})
    assert colour(generated) == "open"
    assert document_verdict(generated).open == ["about synthetic data, no person's: it vouches for nobody's rows"]


def test_a_delta_of_one_in_fifty_at_four_hundred_users():
    """At that delta a mechanism that publishes eight users in full, chosen by lot, has an epsilon of 0."""
    forged = document(delta=0.02)
    assert old_judge(forged)
    assert [reason.split(":")[1] for reason in document_verdict(forged).reasons] == [
        f" δ 2.0e-02 exceeds 1/n^1.1 of its {N} users, {N**-1.1:.1e}"
    ]
    assert not document_verdict(
        document(delta=0.02, declared={"max_delta": 0.5})
    ).compliant  # no policy makes up for it
    assert not document_verdict(document(delta=N**-1.1, declared={"max_delta": 1e-5})).compliant
    assert document_verdict(document(delta=1e-6, declared={"max_delta": 1e-5})).compliant


def test_no_ceiling():
    forged = document(epsilon=500.0)
    assert old_judge(forged)
    assert "exceeds the limit 8" in "".join(document_verdict(forged).reasons)
    for ceiling in (None, 0.0, math.inf, math.nan):
        with pytest.raises(ValidationError):
            document(epsilon=500.0, declared={"max_epsilon": ceiling})


@pytest.mark.parametrize(
    ("ledger", "reason"),
    [
        ({"exact": False}, "exact integer mechanism"),
        ({"closed_by": None}, "not closed"),
        ({"self_signed": True}, "the run made itself"),
        ({"seeded": True}, "known seed"),
    ],
)
def test_a_ledger_that_proves_too_little(ledger, reason):
    forged = document(ledger=ledger)
    assert old_judge(forged) == (not forged.markets["m"].ledger.seeded)  # the others were never looked at
    (found,) = document_verdict(forged).reasons
    assert reason in found


def test_a_model_tuned_on_private_rows():
    forged = document(run={"tuned": True})
    assert old_judge(forged)
    assert "tuned on private validation rows" in "".join(document_verdict(forged).reasons)


def test_a_violated_audit_set_to_consistent(run, auditor):
    audited(run, auditor)
    path = audit_file(run, "m")
    path.write_text(path.read_text().replace("VIOLATED", "not refuted"))
    assert old_judge(document(evidence=examine(run)))
    assert [result["verdict"] for result in old_audits(run)] == ["not refuted"]
    assert "its signature does not hold" in "".join(document_verdict(document(evidence=examine(run))).reasons)


def test_the_stage_that_was_refuted_left_out_of_a_signed_audit(run, auditor):
    results = {"audit": [{**AUDIT, "stage": "counts", "verdict": "not refuted"}, AUDIT]}
    add_statement(run, audit_file(run, "m"), make_statement(run, "audit", {"level": 0.05}, results, auditor))
    path = audit_file(run, "m")
    held = json.loads(path.read_text())
    held["statements"][0]["results"]["audit"].pop()
    path.write_text(json.dumps(held))
    assert old_judge(document(evidence=examine(run)))
    assert not document_verdict(document(evidence=examine(run))).compliant


def test_a_signature_cut_off_with_what_it_covered(run, auditor):
    """Anyone can write unsigned results; they are nobody's, and no audit."""
    audited(run, auditor)
    path = audit_file(run, "m")
    held = json.loads(path.read_text())
    held["statements"][0]["signature"] = None
    held["statements"][0]["results"]["audit"][0]["verdict"] = "not refuted"
    path.write_text(json.dumps(held))
    found = document(evidence=examine(run))
    assert old_audits(run)
    assert colour(found) == "open"
    assert any(item.startswith("code not audited at the plans of m; nothing") for item in document_verdict(found).open)
    assert any("unsigned" in item for item in document_verdict(found).open)


def test_evidence_copied_from_another_run(run, tmp_path, auditor):
    other = make_run(tmp_path / "other", 2)
    audited(other, auditor, verdict="not refuted", low_fdp=0.5)
    audit_file(run, "m").parent.mkdir(parents=True)
    shutil.copy(audit_file(other, "m"), audit_file(run, "m"))
    assert [result["verdict"] for result in old_audits(run)] == ["not refuted"]
    found = document(evidence=examine(run))
    assert "audit/m/audit.json#1: of another run" in document_verdict(found).open
    assert any(item.startswith("code not audited at the plans of m;") for item in document_verdict(found).open)


def test_evidence_rebound_to_this_run_loses_its_signature(run, tmp_path, auditor):
    other = make_run(tmp_path / "other", 2)
    audited(other, auditor, verdict="not refuted", low_fdp=0.5)
    audit_file(run, "m").parent.mkdir(parents=True)
    text = audit_file(other, "m").read_text().replace(f"{2:032x}", f"{1:032x}")
    heads = [binding_of(directory).ledgers["m"] for directory in (other, run)]
    audit_file(run, "m").write_text(text.replace(*heads))
    assert "its signature does not hold" in "".join(document_verdict(document(evidence=examine(run))).reasons)


def test_an_attack_beyond_its_bound_called_within(run, auditor):
    add_statement(run, attacks_file(run), make_statement(run, "attack", {}, {"membership": [ATTACK]}, auditor))
    assert "does better than a guarantee admits" in "".join(document_verdict(document(evidence=examine(run))).reasons)
    path = attacks_file(run)
    path.write_text(path.read_text().replace('"BEYOND"', '"within"'))
    assert old_judge(document(evidence=examine(run)))
    assert "its signature does not hold" in "".join(document_verdict(document(evidence=examine(run))).reasons)


USAGE = {"market": "m", "view": "market", "aggregation": "masked-ckks", "rank_correlation": SUCCESS}


def test_an_attack_that_no_guarantee_is_held_against_was_an_attack(run, auditor):
    """How many users have each code: it asks of nobody whether they took part, and green followed from it."""
    audited(run, auditor, verdict="not refuted", low_fdp=0.5)
    add_statement(run, attacks_file(run), make_statement(run, "attack", {}, {"usage": [USAGE]}, auditor))
    found = document(evidence=examine(run))
    assert [(one.kind, one.verdict) for one in counted_attacks(found)] == [("usage", None)]  # as much as was asked for
    assert document_verdict(found).open == ["attacked, but nobody tried to infer membership"]
    assert colour(found) == "open"


def test_as_many_results_as_fit_into_a_file_are_read_in_time(monkeypatch):
    """Each was looked for among all others: a file of 16 MB, which anybody can write, was read for hours."""
    compared = []

    class Counting(dict):
        __hash__ = None

        def __eq__(self, other):
            compared.append(1)
            return dict.__eq__(self, other)

    results = [Counting(USAGE, market=str(number)) for number in range(200)]
    for result in results:
        assert result in results  # as it was
    assert len(compared) > 100 * 200 / 2 - 200
    compared.clear()
    assert len(attack_rows({"usage": results})) == 200
    assert not compared


# -- settings that whoever makes an audit or an attack chooses ---------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "p_value", "verdict"),
    [(1e-6, 1e-4, "VIOLATED"), (1e-6, 0.02, "not refuted"), (0.5, 0.04, "VIOLATED"), (0.05, 0.004, "VIOLATED")],
)
def test_an_audit_at_a_level_that_refutes_nothing(run, auditor, level, p_value, verdict):
    """One of ten tests. At a level of 1e-6 a p-value of 1e-4 refutes nothing, and 5 % is what a report holds it to."""
    said = "VIOLATED" if p_value <= level / 10 else "not refuted"
    result = {**AUDIT, "verdict": said, "p_value": p_value, "level": level / 10}
    statement = make_statement(run, "audit", {"level": level}, {"audit": [result]}, auditor)
    add_statement(run, audit_file(run, "m"), statement)
    (found,) = examine(run)[0].audits["m"]
    assert found.verdict == verdict
    assert document_verdict(document(evidence=examine(run))).compliant == (verdict == "not refuted")
    assert (said == "not refuted") == (level < 0.05)  # the attack works on the word of the audit


@pytest.mark.parametrize(
    ("p_value", "light", "verdict"),
    [(1e-4, 0.5, "VIOLATED"), (0.5, 1e-5, "shows nothing"), (0.5, 0.5, "not refuted")],
)
def test_canary_users_at_a_level_that_refutes_nothing(run, auditor, p_value, light, verdict):
    reading = {"market": "m", "reading": "counts", "claimed": 1.0, "candidates": 100, "present": 51, "auc": 0.5,
               "low_fdp": 0.0, "low_one_run": 0.0, "p_value": p_value, "light": light, "level": 1e-6 / 4,
               "verdict": "not refuted"}  # fmt: skip
    statement = make_statement(run, "audit", {"level": 1e-6}, {"canary users": [reading]}, auditor)
    add_statement(run, audit_file(run, "m"), statement)
    (found,) = examine(run)[0].canary_users["m"]
    assert found.verdict == verdict


def test_a_statement_without_a_level_is_no_audit(run, auditor):
    for settings in ({}, {"level": 0}, {"level": "none"}):
        statement = make_statement(run, "audit", settings, {"audit": [{**AUDIT, "verdict": "not refuted"}]}, auditor)
        audit_file(run, "m").unlink(missing_ok=True)
        add_statement(run, audit_file(run, "m"), statement)
        assert examine(run)[0].stated.problem == "its results cannot be read"


WITHIN = {"bound": {"epsilon": 8.0, "delta": 1e-3, "verdict": "within", "detects": 12.0, "targets": 960}}


@pytest.mark.parametrize(("made", "missing"), [
    ({"membership": [{**ATTACK, "bound": None}]}, ["market", "consumer", "release"]),
    ({"membership": [{**ATTACK, **WITHIN, "view": "consumer"}]}, ["market", "release"]),
    ({"membership": [{**ATTACK, **WITHIN, "view": "collusion"}, {**ATTACK, **WITHIN}]}, []),
])  # fmt: skip
def test_an_attack_that_its_owner_chose_for_what_it_does_not_find(run, auditor, made, missing):
    """Of the views that a guarantee is claimed for some had no attack, and any attack at all left nothing open."""
    add_statement(run, attacks_file(run), make_statement(run, "attack", {}, made, auditor))
    found = document(evidence=examine(run))
    assert counted_attacks(found)  # all that was asked for
    opened = [item.split(" view: ")[0] for item in document_verdict(found).open if "nobody tried" in item]
    assert opened == missing
    nothing_shown = document(epsilon=0.0, evidence=examine(run))  # what shows nothing needs no attack
    assert not any("nobody tried" in item for item in document_verdict(nothing_shown).open)


def test_results_that_stand_in_no_evidence_are_worth_nothing():
    """A document that lists an attack without naming where it is from."""
    attack = AttackStated(kind="membership", attack="a", view="release", measure="AUC", success=0.5, low=0.4, high=0.6,
                          chance=0.5, over="users", verdict="within", says="within", evidence="nowhere")  # fmt: skip
    found = document().model_copy(update={"attacks": [attack]})
    assert "not attacked: no attack on this run counts" in document_verdict(found).open


# -- what was spent: the most that anything says -----------------------------------------------------------------------


def old_claimed(document, market, view):
    """The account's word alone, whatever the run's own ledger says."""
    return document.markets[market].all_runs.epsilon[view]


def test_an_account_in_which_the_run_spent_nothing():
    """The verdict is a function of the document: whatever made the account say so, the run's own ε stays."""
    forged = document(
        epsilon=8.0, declared={"max_epsilon": 1.0}, runs={"runs": 2, "epsilon": dict.fromkeys(VIEWS, 0.0)}
    )
    assert old_claimed(forged, "m", "release") <= forged.declarations.max_epsilon  # the attack works
    assert claimed_epsilon(forged, "m", "release") == 8.0
    assert "exceeds the limit 1" in "".join(document_verdict(forged).reasons)


@pytest.mark.parametrize("where", ["epsilon", "ledger_epsilon"])
def test_runs_that_nothing_bounds_together_though_each_has_a_budget(where):
    """Two that find their catalogues, with half of δ each for the case that an item of one user alone is published."""
    found = document(runs={"runs": 2, "ledger_runs": 2, where: dict.fromkeys(VIEWS)})
    market = found.markets["m"]
    assert (market.all_runs.without_bound, market.views["release"].epsilon) == (0, 8.0)  # what was asked alone
    assert "no bound on what the release view learns over all runs" in "".join(document_verdict(found).reasons)


def test_a_ledger_that_names_more_runs_than_the_account():
    forged = document(
        declared={"max_epsilon": 10.0}, runs={"ledger_runs": 2, "ledger_epsilon": dict.fromkeys(VIEWS, 12.0)}
    )
    assert old_claimed(forged, "m", "release") <= forged.declarations.max_epsilon  # the attack works
    reasons = "".join(document_verdict(forged).reasons)
    assert "exceeds the limit 10" in reasons
    assert "the privacy account knows 1 runs on its data, the run's ledger 2" in reasons


def test_an_account_that_holds_another_spending_for_the_run():
    assert "does not hold this run with what its plan spends" in "".join(
        document_verdict(document(runs={"as_planned": False})).reasons
    )


def test_an_account_that_cannot_be_read_says_why():
    unread = {"runs": None, "problem": "privacy.account:3: not as it was written", "epsilon": dict.fromkeys(VIEWS)}
    assert "privacy.account:3: not as it was written" in "".join(document_verdict(document(runs=unread)).reasons)


def test_a_signed_run_with_an_edited_account(released_copy, released_run):
    """Text edits of the account alone, of lines and of links: the report refuses, and says so."""
    for name in ("privacy.account", "privacy.account.key"):
        shutil.copy(released_run.parent / name, released_copy.parent / name)
    said = Declarations(signer=None, trusted=[], sole_run=False, max_epsilon=20.0, max_delta=None)
    path = released_copy.parent / "privacy.account"
    assert build_document(released_copy, said, account=path).verdict.compliant
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if "events" in line["body"]:
            line["body"]["events"] = {view: {"kind": "no-op"} for view in line["body"]["events"]}
    path.write_text("".join(json.dumps(line, sort_keys=True, separators=(",", ":")) + "\n" for line in lines))
    assert json.loads(path.read_text().splitlines()[1])["body"]["events"]["release"] == {
        "kind": "no-op"
    }  # as was believed
    found = build_document(released_copy, said, account=path).verdict
    assert not found.compliant
    assert "privacy.account:2: not as it was written" in "".join(found.reasons)


# -- whose word it is --------------------------------------------------------------------------------------------------


def test_a_throw_away_key_closes_the_ledger_and_signs_the_evidence(run):
    """Anybody can make a key, and write any name on its card."""
    stranger = Identity.generate("national-privacy-auditors")
    audited(run, stranger, verdict="not refuted", low_fdp=0.5)
    kept = {"bound": {"epsilon": 8.0, "delta": 1e-3, "verdict": "within", "detects": 12.0, "targets": 960}}
    statement = make_statement(
        run,
        "attack",
        {},
        {"membership": everywhere(kept)},
        stranger,
    )
    add_statement(run, attacks_file(run), statement)
    card = stranger.card.fingerprint
    closed = {"closed_by": card}
    as_it_was = document(
        ledger=closed, evidence=examine(run), declared={"trusted": [{"name": "whoever", "fingerprint": card}]}
    )
    assert colour(as_it_was) == "good"  # the attack works where every key is believed
    found = document(ledger=closed, evidence=trusting(examine(run), {SIGNER}), declared={"trusted": []})
    assert colour(found) == "open"
    assert (
        f"m: closed by card {card}, which the signer does not vouch for (--trust CARD)" in document_verdict(found).open
    )
    assert any(item.startswith("code not audited at the plans of m;") for item in document_verdict(found).open)
    assert "not attacked: no attack on this run counts" in document_verdict(found).open


def test_what_a_stranger_found_against_a_claim_speaks_against_it(run):
    audited(run, Identity.generate("stranger"))
    assert not document_verdict(document(evidence=trusting(examine(run), {SIGNER}))).compliant


def test_one_person_with_one_key_is_named_for_what_it_is(run):
    one = Identity.generate("owner")
    audited(run, one, verdict="not refuted", low_fdp=0.5)
    card = one.card.fingerprint
    found = document(
        ledger={"closed_by": card}, evidence=trusting(examine(run), {card}), declared={"signer": card, "trusted": []}
    )
    assert document_verdict(found).compliant
    assert f"self-signed: run, evidence and report by one key, card {card}" in document_verdict(found).open
    assert colour(found) == "open"


class OldDeclarations(Declarations):
    """Any text, as it was."""

    signer: str | None
    trusted: list[dict[str, str]]

    @field_validator("trusted")
    @classmethod
    def _each_once(cls, trusted):
        return trusted


class OldDocument(Document):
    created: str
    declarations: OldDeclarations


@pytest.mark.parametrize("place", ["created", "signer", "name", "fingerprint", "cards", "twice"])
def test_rows_as_what_the_signer_alone_says(place):
    """No run gives these, so that a check against the run takes them from the report."""
    plain, text = document().model_dump(mode="json"), ROWS[:200].hex()
    assert Document.model_validate(plain)
    said = plain["declarations"]
    match place:
        case "created":
            plain["created"] = text
        case "signer":
            said["signer"] = text
        case "cards":
            said["trusted"] = [
                {"name": "a", "fingerprint": " ".join([f"{n:04x}"] * 8)} for n in range(MOST_TRUSTED + 1)
            ]
        case "twice":
            said["trusted"] = [said["trusted"][0] | {"name": letter} for letter in text[:50]]
        case _:
            said["trusted"][0][place] = text
    assert OldDocument.model_validate(plain)
    with pytest.raises(ValidationError, match="trusted" if place in ("cards", "twice") else place):
        Document.model_validate(plain)


def test_rows_as_the_time_of_a_report_were_on_its_page():
    text, owner = ROWS[:200].hex(), Identity.generate("owner")
    report = sign(document().model_copy(update={"created": text}), owner)  # checks nothing
    assert signature_problem(report, owner.card) is None
    assert text in page(report)
    with pytest.raises(ValidationError, match="created"):
        SignedReport.model_validate(report.model_dump(mode="json"))


@pytest.mark.parametrize("command", [["report"], ["report", "--compliance", "--max-epsilon", 8]])
def test_more_cards_than_a_page_or_report_names(run, capsys, command):
    cards = ["--trust", run / "card.json"] * (MOST_TRUSTED + 1)
    status, _, err = fedmm(capsys, command[0], run, *command[1:], *cards)
    assert (status != 0, "--trust names 101 cards" in err) == (True, True)
